/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fetch, complete and recover on a split ring with an in-flight region, by a process that may be killed between any
 * two stores, in its recovery too, any number of times. README.md says which lines of C each step is.
 *
 * What is shown, for any number of requests and deaths:
 *   done twice    a request is submitted or published only while the driver waits for it: assertions on fate[]
 *   lost          the driver stops adding at some point, the deaths at another; were a request forgotten then, or its
 *                 interrupt, all would stand still with the driver waiting: an invalid end state
 *   late writes   what the kernel carries out belongs to a request that is not answered yet: assertion in storage
 *
 * MUTANT leaves a step out or moves it; the test shows that each is then found to be needed.
 */
#ifndef N
#define N 2 /* size of the ring; every request is one descriptor */
#endif
#define M       (2 * N) /* indices count modulo M, where the ring's own are modulo 65536 */
#define NO_HEAD 255
#define NEVER   255 /* an event index that was passed; it would come round again after a lap of the indices */

#define DIST(to, from)         (((to) + M - (from)) % M)
#define PLUS(idx, n)           (((idx) + (n)) % M)
#define PASSED(event, to, old) (event != NEVER && DIST(to, PLUS(event, 1)) < DIST(to, old))

#if N == 2
#define ANY(IS)       (IS(0) || IS(1))
#define CHOOSE(h, IS) if :: IS(0) -> h = 0 :: IS(1) -> h = 1 fi
#define EACH(DO)      DO(0); DO(1)
#elif N == 4
#define ANY(IS)       (IS(0) || IS(1) || IS(2) || IS(3))
#define CHOOSE(h, IS) if :: IS(0) -> h = 0 :: IS(1) -> h = 1 :: IS(2) -> h = 2 :: IS(3) -> h = 3 fi
#define EACH(DO)      DO(0); DO(1); DO(2); DO(3)
#endif

/* Steps left out. */
#define NO_MARK            1
#define NO_BATCH_HEAD      2
#define NO_BATCH_NEXT      3
#define NO_RECORD          4
#define NO_RECORD_RECOVERY 5
#define NO_CLEAR           6
#define NO_CLEAR_RECOVERY  7
#define FROM_AVAIL_IDX     8
#define FROM_USED_IDX      9
#define NO_CALL            10
#define NO_LOOK            11
#define NO_REAP            12
#define ZEROED_REGION      13
/* Steps in the wrong place. */
#define MARK_LATE          14
#define BATCH_LATE         15
#define CLEAR_EARLY        16
#define RECORD_EARLY       17
#define RECORD_FIRST       18
#ifndef MUTANT
#define MUTANT 0
#endif
#define STORE(without, field, value) field = (MUTANT == without -> field : value)

/*
 * What is dead keeps no value, so that states differing in nothing else are one. That it is dead is checked, not
 * assumed: a head that reads NO_HEAD fails an assertion or an array's bound. Mutants run without this.
 */
#if MUTANT == 0
#define DEAD(field) field = NO_HEAD
#else
#define DEAD(field) skip
#endif

/* Guest memory. The ring begins in the middle of its life, as when a device is attached to a live one. */
#define START (M - 1)
byte avail_ring[N], avail_idx = START, used_event = START;
byte used_ring[N], used_idx = START, avail_event = START;

/* The in-flight region. */
bool inflight[N];
byte next[N];
#if MUTANT == ZEROED_REGION
byte last_batch_head, region_used;
#else
byte last_batch_head = NO_HEAD, region_used = START;
#endif

bool kick, call; /* the event descriptors, which outlive the process */

/* The kernel's side of I/O: held, then done until the process reaps it; stale is what a dead process left. */
mtype = { IDLE, HELD, DONE };
mtype io[N] = IDLE;
bool stale[N];

/* What no process reads: what the driver may expect of each request. */
mtype = { NONE, WANTED, PUBLISHED };
mtype fate[N] = NONE;

bool killed;

#define IS_HELD(h)  (io[h] == HELD)
#define IS_DONE(h)  (io[h] == DONE)
#define IS_BUSY(h)  (io[h] != IDLE)
#define IS_STALE(h) stale[h]
#define IS_NONE(h)  (fate[h] == NONE)
#define IS_OPEN(h)  (fate[h] != NONE)

/* ---- the device process ---- */

mtype = { FREE, PENDING, TAKEN, SUBMITTED, STAGED };
#define IS_PENDING(h)  (slot[h] == PENDING)
#define IS_TAKEN(h)    (slot[h] == TAKEN)
#define IS_REAPABLE(h) (slot[h] == SUBMITTED && io[h] == DONE)

#define DEAD_LIST(h) DEAD(next[h])

inline finish_batch()
{
	d_step {
		my_used = used_idx;
		used_event = (used_event == my_used -> used_event : NEVER);
		left = DIST(my_used, region_used);
		head = last_batch_head;
		assert(left <= N); /* -EPROTO */
	}
#if MUTANT == RECORD_FIRST
	region_used = my_used;
#endif
	do
	:: d_step {
		left > 0 ->
		assert(head < N); /* -EPROTO */
		STORE(NO_CLEAR_RECOVERY, inflight[head], false);
		head = next[head];
		left--
	   }
	:: d_step {
		left == 0 ->
		STORE(NO_RECORD_RECOVERY, region_used, my_used);
		EACH(DEAD_LIST);
		DEAD(last_batch_head);
		head = 0
	   }
	   break
	od
}

#define LIST_ONE(h) if :: inflight[h] -> slot[h] = PENDING; n_resubmit++ :: else fi

inline recover()
{
	finish_batch();
	atomic {
		EACH(LIST_ONE);
#if MUTANT == FROM_AVAIL_IDX
		last_avail = avail_idx;
#elif MUTANT == FROM_USED_IDX
		last_avail = my_used;
#else
		last_avail = PLUS(my_used, n_resubmit);
#endif
		avail_seen = last_avail;
		call_once = true
	}
	STORE(NO_CALL, call, true)
}

inline fetch()
{
	d_step {
		n_resubmit == 0 && avail_seen != last_avail ->
		head = avail_ring[last_avail % N];
		assert(slot[head] == FREE); /* -EALREADY */
		inflight[head] = (MUTANT == NO_MARK || MUTANT == MARK_LATE -> inflight[head] : true);
		DEAD(avail_ring[last_avail % N]);
		last_avail = PLUS(last_avail, 1);
		slot[head] = TAKEN;
		head = 0
	}
}

inline submit()
{
	atomic {
		ANY(IS_TAKEN) ->
		CHOOSE(head, IS_TAKEN);
		assert(fate[head] == WANTED);
		io[head] = HELD;
		slot[head] = SUBMITTED;
#if MUTANT != MARK_LATE
		head = 0
#endif
	}
#if MUTANT == MARK_LATE
	d_step { inflight[head] = true; head = 0 }
#endif
}

inline publish()
{
	/* write_elements: nobody reads them before used.idx has moved */
	d_step {
		n_staged > 0 ->
		do
		:: i < n_staged -> used_ring[PLUS(my_used, i) % N] = staged[i]; i++
		:: else -> break
		od;
		i = 0;
		head = last_batch_head
	}
#if MUTANT == CLEAR_EARLY
	do
	:: d_step { i < n_staged -> inflight[staged[i]] = false; i++ }
	:: d_step { i == n_staged -> i = 0 }; break
	od;
#endif
	/* link_batch */
	do
	:: d_step { i < n_staged -> STORE(NO_BATCH_NEXT, next[staged[i]], head); head = staged[i]; i++ }
	:: d_step {
		i == n_staged ->
		last_batch_head = (MUTANT == NO_BATCH_HEAD || MUTANT == BATCH_LATE -> last_batch_head : head);
		i = 0
	   }
	   break
	od;
#if MUTANT == RECORD_EARLY
	region_used = PLUS(my_used, n_staged);
#endif
	/* used.idx: from here on the driver has them */
	atomic {
		used_idx = PLUS(my_used, n_staged);
		do
		:: i < n_staged -> assert(fate[staged[i]] == WANTED); fate[staged[i]] = PUBLISHED; i++
		:: else -> break
		od;
		i = 0
	}
#if MUTANT == BATCH_LATE
	last_batch_head = head;
#endif
	/* the flags; region_used; what the process itself remembers */
	do
	:: d_step { i < n_staged -> STORE(NO_CLEAR, inflight[staged[i]], false); i++ }
	:: d_step {
		i == n_staged ->
		STORE(NO_RECORD, region_used, used_idx);
		EACH(DEAD_LIST);
		DEAD(last_batch_head);
		i = 0;
		head = 0
	   }
	   break
	od;
	/* wants_call: used_event is read after used.idx was stored */
	atomic {
		wanted = call_once || PASSED(used_event, used_idx, my_used);
		call_once = false;
		my_used = used_idx;
		used_event = (used_event == my_used -> used_event : NEVER);
		do
		:: n_staged > 0 -> n_staged--; slot[staged[n_staged]] = FREE; staged[n_staged] = 0
		:: else -> break
		od
	}
	d_step { call = call || wanted; wanted = false }
}

/* vq_enable_kicks, and epoll_wait if that found nothing. */
inline sleep()
{
	d_step {
		n_resubmit == 0 && n_staged == 0 && avail_seen == last_avail && !ANY(IS_TAKEN) && !ANY(IS_DONE) ->
		avail_event = last_avail
	}
	if
	:: avail_idx != last_avail
	:: else ->
end_asleep:
asleep:
		if
		:: d_step { kick || ANY(IS_DONE) -> kick = false }
		fi
	fi
}

#define FORGET(h) slot[h] = FREE; staged[h] = 0; stale[h] = stale[h] || io[h] == HELD; io[h] = IDLE

proctype server()
{
	mtype slot[N] = FREE;
	byte staged[N];
	byte n_staged, n_resubmit, last_avail, avail_seen, my_used, head, left, i;
	bool call_once, wanted;

life:
	{
		/* The supervisor reaps the dead one first: what the kernel still holds of it is carried out before. */
		(MUTANT == NO_REAP || !ANY(IS_STALE));
		recover();
#if MUTANT == NO_LOOK
		if
		:: n_resubmit == 0 -> goto asleep
		:: else
		fi;
#endif
		do
		:: atomic { n_resubmit > 0 -> CHOOSE(head, IS_PENDING); slot[head] = TAKEN; n_resubmit--; head = 0 }
		:: d_step {
			n_resubmit == 0 && avail_seen == last_avail && avail_idx != last_avail ->
			avail_seen = avail_idx;
			assert(DIST(avail_seen, last_avail) <= N) /* -ERANGE */
		   }
		:: fetch()
		:: submit()
		:: atomic {
			ANY(IS_REAPABLE) -> CHOOSE(head, IS_REAPABLE);
			io[head] = IDLE; slot[head] = STAGED; staged[n_staged] = head; n_staged++; head = 0
		   }
		:: publish()
		:: sleep()
		od
	} unless {
		d_step {
			killed ->
			EACH(FORGET);
			n_staged = 0; n_resubmit = 0; last_avail = 0; avail_seen = 0; my_used = 0;
			head = 0; left = 0; i = 0; call_once = false; wanted = false;
			killed = false
		}
	};
	goto life
}

/* ---- the kernel, the driver, the killer ---- */

proctype storage() provided (!killed)
{
	byte h;

end_storage:
	do
	:: atomic { ANY(IS_HELD) -> CHOOSE(h, IS_HELD); assert(fate[h] == WANTED); io[h] = DONE; h = 0 }
	:: atomic { ANY(IS_STALE) -> CHOOSE(h, IS_STALE); assert(fate[h] == WANTED); stale[h] = false; h = 0 }
	od
}

inline take()
{
	d_step {
		seen != used_idx ->
		h = used_ring[seen % N];
		DEAD(used_ring[seen % N]);
		assert(fate[h] == PUBLISHED);
		fate[h] = NONE;
		seen = PLUS(seen, 1);
		h = 0
	}
}

inline add()
{
	atomic {
		ANY(IS_NONE) ->
		CHOOSE(h, IS_NONE);
		avail_ring[avail_idx % N] = h;
		fate[h] = WANTED;
		avail_idx = PLUS(avail_idx, 1);
		h = 0
	}
	d_step {
		kick = kick || PASSED(avail_event, avail_idx, PLUS(avail_idx, M - 1));
		avail_event = (avail_event == avail_idx -> avail_event : NEVER)
	}
}

proctype driver() provided (!killed)
{
	byte seen = START, h;

	/* As long as it likes: adds, polls, and asks for interrupts, in any order. */
	do
	:: add()
	:: take()
	:: used_event = seen
	:: break
	od;
	/* Then it sleeps until all is answered, and only an interrupt wakes it. */
	do
	:: take()
	:: seen == used_idx && !ANY(IS_OPEN) -> break
	:: d_step { seen == used_idx && ANY(IS_OPEN) -> used_event = seen };
		if
		:: seen != used_idx
		:: else ->
waits:
			if
			:: d_step { call -> call = false }
			fi
		fi
	od
}

/* Deaths at any time; but they wake nobody: when all stands still, none comes to help. */
proctype killer() provided (!killed)
{
end_killer:
	do
	:: !(server@asleep && !kick && !ANY(IS_BUSY) && driver@waits && !call) -> killed = true
	od
}

init {
	atomic { run server(); run storage(); run killer(); run driver() }
}
