// The worker pool: a list of operations is run phase by phase; within a phase workers take chunks by ticket. A phase
// ends when its chunks are done, whether or not every worker took one: a worker that sleeps or is preempted without a
// chunk delays no other. The worker that finishes the last chunk opens the next phase, so runs of small phases stay on
// one core. Waiting is a bounded spin, then sleep.
#define _DEFAULT_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include "kernels.h"

// A ticket word: phase number (24 bits), chunks of the phase (20), next chunk (20). A list that has ended has no
// chunks.
enum { NEXT_BITS = 20, SPINS = 1000 };
#define NEXT(s) ((int64_t)((s) & ((1u << NEXT_BITS) - 1)))
#define COUNT(s) ((int64_t)((s) >> NEXT_BITS & ((1u << NEXT_BITS) - 1)))
#define PHASE(s) ((s) >> 2 * NEXT_BITS)

typedef struct {
	pthread_t thread;
	struct pool *pool;
	uint64_t prepared; // serial number of the phase for which scratch was last prepared
	int index;
} worker;

struct pool {
	_Alignas(64) _Atomic uint64_t state;
	_Alignas(64) _Atomic int64_t done;
	_Alignas(64) op *current; // written between phases by the one thread that opens the next
	int phase;
	uint64_t serial;
	int measure;
	int64_t opened; // when the phase was opened, where measure is set
	uint8_t *scratch;
	int64_t scratch_bytes; // of one worker
	const kernel_table *kernels;
	int threads;
	_Atomic int sleeping_workers, sleeping_caller, stop;
	pthread_mutex_t mutex;
	pthread_cond_t work, end;
	worker *workers;
};

static void relax(void) {
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static void wake(pool *p, _Atomic int *sleeping, pthread_cond_t *cond) {
	if (atomic_load(sleeping) > 0) {
		pthread_mutex_lock(&p->mutex);
		pthread_cond_broadcast(cond);
		pthread_mutex_unlock(&p->mutex);
	}
}

static void measure(pool *p, op *ended) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	int64_t now = t.tv_sec * 1000000000ll + t.tv_nsec;
	if (ended != NULL) {
		ended->ns += now - p->opened;
	}
	p->opened = now;
}

// Opens the phase after (current, phase), or ends the list.
static void open_next(pool *p, uint64_t number) {
	op *o = p->current;
	int phase = p->phase;
	if (p->measure) {
		measure(p, phase < 0 ? NULL : o);
	}
	int64_t chunks = 0;
	while (o != NULL && (chunks = op_chunks(o, ++phase, p->threads)) == 0) {
		o = o->next;
		phase = -1;
	}
	p->current = o;
	p->phase = phase;
	p->serial++;
	atomic_store_explicit(&p->done, 0, memory_order_relaxed);
	atomic_store(&p->state, (number + 1) << 2 * NEXT_BITS | (uint64_t)chunks << NEXT_BITS);
	if (chunks > 1) {
		wake(p, &p->sleeping_workers, &p->work);
	}
	if (chunks != 1) {
		wake(p, &p->sleeping_caller, &p->end);
	}
}

// Returns when phase or count differ from those of seen, or the pool stops.
static void wait_change(pool *p, uint64_t seen, int caller) {
	for (int i = 0; i < SPINS; i++) {
		if (atomic_load_explicit(&p->state, memory_order_acquire) >> NEXT_BITS != seen >> NEXT_BITS) {
			return;
		}
		relax();
	}
	_Atomic int *sleeping = caller ? &p->sleeping_caller : &p->sleeping_workers;
	pthread_mutex_lock(&p->mutex);
	atomic_fetch_add(sleeping, 1);
	while (atomic_load(&p->state) >> NEXT_BITS == seen >> NEXT_BITS && !atomic_load(&p->stop)) {
		pthread_cond_wait(caller ? &p->end : &p->work, &p->mutex);
	}
	atomic_fetch_sub(sleeping, 1);
	pthread_mutex_unlock(&p->mutex);
}

static void work(pool *p, worker *w) {
	int caller = w->index == 0;
	while (!atomic_load_explicit(&p->stop, memory_order_relaxed)) {
		uint64_t s = atomic_load_explicit(&p->state, memory_order_acquire);
		if (caller && COUNT(s) == 0) {
			return;
		}
		if (NEXT(s) >= COUNT(s)) {
			wait_change(p, s, caller);
			continue;
		}
		s = atomic_fetch_add_explicit(&p->state, 1, memory_order_acq_rel);
		if (NEXT(s) >= COUNT(s)) {
			continue;
		}
		int fresh = w->prepared != p->serial;
		w->prepared = p->serial;
		op_run(p->current, p->phase, NEXT(s), p->kernels, p->scratch + w->index * p->scratch_bytes, fresh);
		if (atomic_fetch_add_explicit(&p->done, 1, memory_order_acq_rel) + 1 == COUNT(s)) {
			open_next(p, PHASE(s));
		}
	}
}

static void *worker_main(void *arg) {
	worker *w = arg;
	work(w->pool, w);
	return NULL;
}

// A pool of that many threads, the caller of pool_run being one; fewer if the system refuses more. NULL without memory.
pool *pool_new(int threads, const kernel_table *k) {
	pool *p = mem_alloc(sizeof *p);
	if (p == NULL) {
		return NULL;
	}
	p->workers = calloc((size_t)threads, sizeof *p->workers);
	if (p->workers == NULL) {
		mem_free(p, sizeof *p);
		return NULL;
	}
	p->kernels = k;
	p->threads = threads;
	pthread_mutex_init(&p->mutex, NULL);
	pthread_cond_init(&p->work, NULL);
	pthread_cond_init(&p->end, NULL);
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); // signals belong to Go's threads
	for (int i = 0; i < threads; i++) {
		p->workers[i].pool = p;
		p->workers[i].index = i;
		if (i > 0 && pthread_create(&p->workers[i].thread, NULL, worker_main, &p->workers[i]) != 0) {
			p->threads = i;
			break;
		}
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return p;
}

int pool_threads(const pool *p) { return p->threads; }

// Runs the list and returns when all of it is done. scratch holds scratch_bytes for each thread.
void pool_run(pool *p, op *first, uint8_t *scratch, int64_t scratch_bytes, int measure) {
	p->measure = measure;
	p->current = first;
	p->phase = -1;
	p->scratch = scratch;
	p->scratch_bytes = scratch_bytes;
	open_next(p, PHASE(atomic_load(&p->state)));
	work(p, &p->workers[0]);
}

void pool_free(pool *p) {
	pthread_mutex_lock(&p->mutex);
	atomic_store(&p->stop, 1);
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->mutex);
	for (int i = 1; i < p->threads; i++) {
		pthread_join(p->workers[i].thread, NULL);
	}
	pthread_mutex_destroy(&p->mutex);
	pthread_cond_destroy(&p->work);
	pthread_cond_destroy(&p->end);
	free(p->workers);
	mem_free(p, sizeof *p);
}
