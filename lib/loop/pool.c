/* SPDX-License-Identifier: Apache-2.0 */
/* The worker pool: calls that block run on its threads, and their ends are posted to the loop that asked. */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>

#include "lock.h"
#include "loop_priv.h"

struct loop_pool {
	sem_t wanted; /* one for each job submitted, and one for each worker at the end */
	struct lock lock;
	struct loop_job *first GUARDED_BY(lock);
	struct loop_job *last GUARDED_BY(lock);
	bool stopping GUARDED_BY(lock);
	unsigned nthreads;
	pthread_t thread[];
};

/* The next job, NULL if there is none. */
static struct loop_job *pop(struct loop_pool *pool) REQUIRES(pool->lock)
{
	struct loop_job *job = pool->first;

	if (job)
		pool->first = job->next;
	return job;
}

static void push(struct loop_pool *pool, struct loop_job *job) REQUIRES(pool->lock)
{
	job->next = NULL;
	if (pool->first)
		pool->last->next = job;
	else
		pool->first = job;
	pool->last = job;
}

static void *worker(void *arg)
{
	struct loop_pool *pool = arg;

	for (;;) {
		struct loop_job *job;
		bool stopping;

		while (sem_wait(&pool->wanted) < 0)
			continue;
		lock_take(&pool->lock);
		stopping = pool->stopping;
		job = stopping ? NULL : pop(pool);
		lock_drop(&pool->lock);
		if (stopping)
			return NULL;
		if (!job)
			continue;
		job->work(job->arg);
		loop_bh_post(&job->bh); /* the job is its owner's again from here on */
	}
}

static void job_done(void *arg)
{
	struct loop_job *job = arg;

	job->done(job->arg);
}

/* Starts the threads with every signal blocked, so that handlers run on the threads meant for them. */
static int start_threads(struct loop_pool *pool, unsigned n)
{
	sigset_t all, old;
	int err = 0;

	sigfillset(&all);
	sigdelset(&all, SIGSYS); /* that one is for the thread that it is about */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (!err && pool->nthreads < n) {
		err = pthread_create(&pool->thread[pool->nthreads], NULL, worker, pool);
		if (!err)
			pool->nthreads++;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -err;
}

int loop_pool_new(unsigned n, struct loop_pool **out)
{
	struct loop_pool *pool = calloc(1, sizeof(*pool) + n * sizeof(pool->thread[0]));
	int err;

	if (!pool)
		return -ENOMEM;
	lock_init(&pool->lock);
	if (sem_init(&pool->wanted, 0, 0) < 0) {
		err = -errno;
		free(pool);
		return err;
	}
	err = start_threads(pool, n);
	if (err) {
		loop_pool_free(pool);
		return err;
	}
	*out = pool;
	return 0;
}

void loop_pool_free(struct loop_pool *pool)
{
	if (!pool)
		return;
	lock_take(&pool->lock);
	pool->stopping = true;
	lock_drop(&pool->lock);
	for (unsigned i = 0; i < pool->nthreads; i++)
		sem_post(&pool->wanted);
	for (unsigned i = 0; i < pool->nthreads; i++)
		pthread_join(pool->thread[i], NULL);
	sem_destroy(&pool->wanted);
	lock_destroy(&pool->lock);
	free(pool);
}

void loop_pool_submit(struct loop_pool *pool, struct loop *loop, struct loop_job *job)
{
	loop_bh_init(&job->bh, loop, job_done, job);
	lock_take(&pool->lock);
	push(pool, job);
	lock_drop(&pool->lock);
	sem_post(&pool->wanted);
}
