// SPDX-License-Identifier: GPL-2.0-only
/*
 * Load on a lockspace from many threads, which finds lost updates.
 *
 *   dlmload LOCKSPACE THREADS ROUNDS NAMES [SEED]
 *
 * The lockspace must exist. Each round does one of: add 1 to a counter in a value block under EX;
 * a NOQUEUE request in a random mode; a chain of conversions; a request that is cancelled. At the
 * end prints "added N refused N cancelled N": the sum of N over all nodes must be the sum of the
 * counters, which "dlmload LOCKSPACE 0 0 NAMES" prints as "counters N". A process keeps an NL lock
 * on every name while it runs, so that the value blocks live; "dlmload LOCKSPACE 0 1 NAMES" does
 * nothing else until its standard input ends.
 *
 * Exit status 0: every operation ended as it may end, and no lock was granted to two threads of
 * this process in modes that exclude each other.
 */
/* libdlm.h offers what needs threads only with this. */
#define _REENTRANT
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include <libdlm.h>

#define NAMES_MAX 1024

static dlm_lshandle_t ls;
static int rounds, names;
static atomic_ulong added, refused, cancelled, failures;
/* Who holds a name in this process: holders of PR and above that exclude EX, and of EX. */
static atomic_int readers[NAMES_MAX], writers[NAMES_MAX];

static void complain(const char *what, long a, long b)
{
	atomic_fetch_add(&failures, 1);
	printf("FAILED: %s (%ld, %ld) errno %d %s\n", what, a, b, errno, strerror(errno));
}

static int name_of(int n, char *name)
{
	return sprintf(name, "load-%04d", n);
}

static uint32_t next(uint64_t *state)
{
	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return *state >> 33;
}

/* Notes that this thread holds a name in a mode; complains if another thread may not. */
static void hold(int n, int mode)
{
	if (mode == LKM_EXMODE) {
		if (atomic_fetch_add(&writers[n], 1) || atomic_load(&readers[n]))
			complain("EX beside another lock", n, mode);
	} else if (mode == LKM_PRMODE) {
		atomic_fetch_add(&readers[n], 1);
		if (atomic_load(&writers[n]))
			complain("PR beside EX", n, mode);
	}
}

static void let_go(int n, int mode)
{
	if (mode == LKM_EXMODE)
		atomic_fetch_sub(&writers[n], 1);
	else if (mode == LKM_PRMODE)
		atomic_fetch_sub(&readers[n], 1);
}

/* 0 if the operation was done and ended with status 0, else the status. */
static int lock_wait(struct dlm_lksb *l, int mode, uint32_t flags, int n)
{
	char name[32];
	int len = name_of(n, name);

	if (dlm_ls_lock_wait(ls, mode, l, flags, name, len, 0, NULL, NULL, NULL)) {
		complain("lock", mode, flags);
		return -1;
	}
	return l->sb_status;
}

static void unlock_wait(struct dlm_lksb *l)
{
	if (dlm_ls_unlock_wait(ls, l->sb_lkid, 0, l))
		complain("unlock", l->sb_lkid, 0);
	else if (l->sb_status != EUNLOCK)
		complain("status of an unlock", l->sb_status, l->sb_lkid);
}

static void count_up(int n)
{
	char lvb[DLM_LVB_LEN] = { 0 };
	struct dlm_lksb l = { .sb_lvbptr = lvb };
	uint64_t value;

	if (lock_wait(&l, LKM_NLMODE, LKF_EXPEDITE, n))
		return;
	if (lock_wait(&l, LKM_EXMODE, LKF_CONVERT | LKF_VALBLK, n)) {
		complain("EX", l.sb_status, n);
		return;
	}
	hold(n, LKM_EXMODE);
	memcpy(&value, lvb, sizeof(value));
	value++;
	memcpy(lvb, &value, sizeof(value));
	let_go(n, LKM_EXMODE);
	if (lock_wait(&l, LKM_NLMODE, LKF_CONVERT | LKF_VALBLK, n))
		complain("EX to NL", l.sb_status, n);
	else
		atomic_fetch_add(&added, 1);
	unlock_wait(&l);
}

static void try_once(int n, int mode)
{
	struct dlm_lksb l = { 0 };
	int status = lock_wait(&l, mode, LKF_NOQUEUE, n);

	if (status == EAGAIN) {
		atomic_fetch_add(&refused, 1);
	} else if (status) {
		complain("status of a try", status, mode);
	} else {
		hold(n, mode);
		let_go(n, mode);
		unlock_wait(&l);
	}
}

static void convert_around(int n, uint64_t *state)
{
	struct dlm_lksb l = { 0 };
	int mode = LKM_PRMODE, i;

	if (lock_wait(&l, mode, 0, n)) {
		complain("PR", l.sb_status, n);
		return;
	}
	hold(n, mode);
	for (i = 0; i < 3; i++) {
		int to = next(state) % 6, status;

		let_go(n, mode);
		status = lock_wait(&l, to, LKF_CONVERT | LKF_NOQUEUE, n);
		if (status == 0)
			mode = to;
		else if (status == EAGAIN)
			atomic_fetch_add(&refused, 1);
		else
			complain("status of a conversion", status, to);
		hold(n, mode);
	}
	let_go(n, mode);
	unlock_wait(&l);
}

struct waiter {
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	struct dlm_lksb lksb;
	int done;
	/* The library overwrites that of the lksb when the next operation begins. */
	int status;
};

static void ast(void *arg)
{
	struct waiter *w = arg;

	pthread_mutex_lock(&w->mutex);
	w->status = w->lksb.sb_status;
	w->done++;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->mutex);
}

static void wait_for(struct waiter *w, int done)
{
	pthread_mutex_lock(&w->mutex);
	while (w->done < done)
		pthread_cond_wait(&w->cond, &w->mutex);
	pthread_mutex_unlock(&w->mutex);
}

/* Asks for EX and changes its mind: one completion for both, whoever wins. */
static void ask_and_cancel(int n)
{
	struct waiter w = { .mutex = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };
	char name[32];
	int len = name_of(n, name);

	if (dlm_ls_lock(ls, LKM_EXMODE, &w.lksb, 0, name, len, 0, ast, &w, NULL, NULL)) {
		complain("asking for EX", n, 0);
		return;
	}
	/* That there is no such lock any more is fine only if it has ended, which the wait shows. */
	if (dlm_ls_unlock(ls, w.lksb.sb_lkid, LKF_CANCEL, &w.lksb, &w) && errno != ENOENT &&
	    errno != EBUSY)
		complain("cancel", w.lksb.sb_lkid, n);
	wait_for(&w, 1);
	if (w.status == ECANCEL) {
		atomic_fetch_add(&cancelled, 1);
		return;
	}
	/* The completion of the request may have been read before the cancel began. */
	if (w.status && w.status != EINPROG)
		complain("status of a cancelled request", w.status, n);
	/* While the answer to the cancel that came too late is out, the lock is busy. */
	while (dlm_ls_unlock(ls, w.lksb.sb_lkid, 0, &w.lksb, &w)) {
		if (errno != EBUSY) {
			complain("unlock after a late cancel", w.lksb.sb_lkid, n);
			return;
		}
		sched_yield();
	}
	wait_for(&w, 2);
	if (w.status != EUNLOCK)
		complain("status of an unlock after a late cancel", w.status, n);
}

static void *work(void *arg)
{
	uint64_t state = (uintptr_t)arg;
	int i;

	for (i = 0; i < rounds; i++) {
		int n = next(&state) % names, what = next(&state) % 10;

		if (what < 5)
			count_up(n);
		else if (what < 7)
			try_once(n, next(&state) % 6);
		else if (what < 9)
			convert_around(n, &state);
		else
			ask_and_cancel(n);
	}
	return NULL;
}

static void keep_and_count(int threads)
{
	static struct dlm_lksb keepers[NAMES_MAX];
	static char lvbs[NAMES_MAX][DLM_LVB_LEN];
	uint64_t sum = 0, value;
	int n, c;

	for (n = 0; n < names; n++) {
		keepers[n].sb_lvbptr = lvbs[n];
		if (lock_wait(&keepers[n], LKM_NLMODE, LKF_EXPEDITE | LKF_VALBLK, n))
			complain("NL", keepers[n].sb_status, n);
	}
	if (threads || rounds)
		return;
	for (n = 0; n < names; n++) {
		if (lock_wait(&keepers[n], LKM_PRMODE, LKF_CONVERT | LKF_VALBLK, n))
			complain("NL to PR", keepers[n].sb_status, n);
		if (keepers[n].sb_flags & DLM_SBF_VALNOTVALID)
			complain("value block not valid", n, 0);
		memcpy(&value, lvbs[n], sizeof(value));
		sum += value;
	}
	printf("counters %lu\n", (unsigned long)sum);
	while ((c = getchar()) != EOF)
		;
}

int main(int argc, char **argv)
{
	pthread_t threads[256];
	uint64_t seed;
	int count, i, c;

	if (argc < 5 || atoi(argv[2]) > 256 || atoi(argv[4]) > NAMES_MAX || atoi(argv[4]) < 1) {
		fprintf(stderr, "usage: dlmload LOCKSPACE THREADS ROUNDS NAMES [SEED]\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	count = atoi(argv[2]);
	rounds = atoi(argv[3]);
	names = atoi(argv[4]);
	seed = argc > 5 ? strtoull(argv[5], NULL, 0) : 1;
	ls = dlm_open_lockspace(argv[1]);
	if (!ls || dlm_ls_pthread_init(ls)) {
		fprintf(stderr, "dlmload: lockspace %s: %s\n", argv[1], strerror(errno));
		return 2;
	}
	keep_and_count(count);
	printf("ready\n");
	for (i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, work,
				   (void *)(uintptr_t)(seed * 1000003 + i * 7919 + 1))) {
			perror("pthread_create");
			return 2;
		}
	for (i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	if (!count && rounds)
		while ((c = getchar()) != EOF)
			;
	printf("added %lu refused %lu cancelled %lu\n", added, refused, cancelled);
	if (failures)
		printf("%lu failed\n", failures);
	fflush(stdout);
	return failures != 0;
}
