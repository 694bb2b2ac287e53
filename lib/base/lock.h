/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The only mutex of the project, annotated so that clang's -Wthread-safety checks what it guards.
 * It is for leaf locks: held for a few lines, never across a call that can block, never while taking another.
 */
#ifndef BASE_LOCK_H
#define BASE_LOCK_H

#include <pthread.h>

#ifdef __clang__
#define LOCK_ATTR(x) __attribute__((x))
#else
#define LOCK_ATTR(x)
#endif

/*
 * For a member of a structure, and what it points to, which lock l of the same structure guards. In C clang can't look up l
 * there (guarded_by finds only what is declared outside of the structure), so what it checks is that a lock is held; and
 * as no two are ever held at a time, that is the one.
 */
#define GUARDED_BY(l)    LOCK_ATTR(guarded_var)
#define PT_GUARDED_BY(l) LOCK_ATTR(pt_guarded_var)

#define REQUIRES(...)    LOCK_ATTR(requires_capability(__VA_ARGS__))
#define ACQUIRES(...)    LOCK_ATTR(acquire_capability(__VA_ARGS__))
#define RELEASES(...)    LOCK_ATTR(release_capability(__VA_ARGS__))
#define EXCLUDES(...)    LOCK_ATTR(locks_excluded(__VA_ARGS__))
#define NO_THREAD_SAFETY LOCK_ATTR(no_thread_safety_analysis)

struct LOCK_ATTR(capability("mutex")) lock {
	pthread_mutex_t mutex;
};

#define LOCK_INIT                                                                                            \
	{                                                                                                    \
		PTHREAD_MUTEX_INITIALIZER                                                                    \
	}

static inline void lock_init(struct lock *l)
{
	pthread_mutex_init(&l->mutex, NULL);
}

static inline void lock_destroy(struct lock *l)
{
	pthread_mutex_destroy(&l->mutex);
}

static inline void lock_take(struct lock *l) ACQUIRES(*l) NO_THREAD_SAFETY
{
	pthread_mutex_lock(&l->mutex);
}

static inline void lock_drop(struct lock *l) RELEASES(*l) NO_THREAD_SAFETY
{
	pthread_mutex_unlock(&l->mutex);
}

#endif
