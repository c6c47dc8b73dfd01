// SPDX-License-Identifier: GPL-2.0-only
/*
 * Writes to and reads from the lock manager's devices everything that is wrong.
 *
 *   devfuzz LOCKSPACE        the lockspace must exist and have a device; run as root
 *
 * Every length from 0 to 300 with every command, foreign versions, unknown commands, lock ids of
 * another open file, names longer than what is sent, short reads. Prints a line for each check that
 * fails, and at the end "N passed, N failed"; exit status 1 if any failed. That the kernel survives
 * is for the watcher of its log to say; that the lock manager still works is checked at the end.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/types.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include <linux/dlm.h>
#include <linux/dlm_device.h>

/* The layout this program checks against. */
_Static_assert(sizeof(struct dlm_write_request) == 120, "request");
_Static_assert(sizeof(struct dlm_lock_result) == 72, "result");

#define REQUEST 120
#define REQUEST32 100
#define NAME_MAX_LEN 64
#define LENGTH_MAX 300
#define RESULT_LIMIT_MS 10000

static int passed, failed;

static void check(int good, const char *what, long a, long b)
{
	if (good) {
		passed++;
		return;
	}
	failed++;
	printf("FAILED: %s (%ld, %ld) errno %d %s\n", what, a, b, errno, strerror(errno));
}

static int open_device(const char *name)
{
	static const char *const dirs[] = { "/dev/misc/", "/dev/" };
	char path[256];
	size_t i;
	int fd;

	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s%s", dirs[i], name);
		fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
		if (fd >= 0)
			return fd;
	}
	fprintf(stderr, "devfuzz: cannot open %s: %s\n", name, strerror(errno));
	exit(2);
}

static struct dlm_write_request *fresh(unsigned char *buffer, int cmd)
{
	struct dlm_write_request *r = (void *)buffer;

	memset(buffer, 0, LENGTH_MAX + 1);
	r->version[0] = 6;
	r->version[1] = 0;
	r->version[2] = 2;
	r->cmd = cmd;
	r->is64bit = 1;
	return r;
}

static struct dlm_write_request *lock_request(unsigned char *buffer, const char *name, int mode,
					      uint32_t flags)
{
	struct dlm_write_request *r = fresh(buffer, DLM_USER_LOCK);

	r->i.lock.mode = mode;
	r->i.lock.flags = flags;
	r->i.lock.namelen = strlen(name);
	r->i.lock.castaddr = (void *)1;
	r->i.lock.castparam = (void *)2;
	r->i.lock.lksb = (void *)3;
	memcpy(buffer + REQUEST, name, strlen(name));
	return r;
}

static int refused(int fd, const void *buffer, size_t len, int error)
{
	errno = 0;
	return write(fd, buffer, len) == -1 && errno == error;
}

/* The result that must come; -1 if it does not within the limit. */
static int result(int fd, struct dlm_lock_result *out)
{
	unsigned char buffer[sizeof(*out) + 32];
	struct pollfd p = { .fd = fd, .events = POLLIN };

	memset(out, 0, sizeof(*out));
	errno = ETIMEDOUT;
	if (poll(&p, 1, RESULT_LIMIT_MS) != 1 || !(p.revents & POLLIN))
		return -1;
	if (read(fd, buffer, sizeof(buffer)) < (ssize_t)sizeof(*out))
		return -1;
	memcpy(out, buffer, sizeof(*out));
	return 0;
}

/* No length but the right ones is taken, whatever the command. */
static void wrong_lengths(int fd, const char *which, int control)
{
	unsigned char buffer[LENGTH_MAX + 1];
	int cmd, len, is64;

	for (cmd = 0; cmd < 10; cmd++)
		for (is64 = 0; is64 < 2; is64++)
			for (len = 0; len <= LENGTH_MAX; len++) {
				struct dlm_write_request *r = fresh(buffer, cmd);
				int least = is64 ? REQUEST : REQUEST32;

				r->is64bit = is64;
				r->i.lock.lkid = 0x7fffffff;
				/* Right lengths of what would do something are not for here. */
				if (len >= least && len <= REQUEST + NAME_MAX_LEN)
					continue;
				check(refused(fd, buffer, len, EINVAL), which, cmd * 1000 + control,
				      len);
			}
}

static void wrong_versions(int fd)
{
	static const uint32_t versions[][3] = {
		{ 0, 0, 0 }, { 5, 0, 0 }, { 7, 0, 0 }, { 6, 1, 0 }, { 6, 0xffffffff, 0 },
		{ 0xffffffff, 0, 0 },
	};
	unsigned char buffer[LENGTH_MAX + 1];
	size_t i;

	for (i = 0; i < sizeof(versions) / sizeof(*versions); i++) {
		struct dlm_write_request *r = lock_request(buffer, "v", 0, 0);

		memcpy(r->version, versions[i], sizeof(versions[i]));
		check(refused(fd, buffer, REQUEST + 1, EBADE), "foreign version", i, 0);
	}
}

static void wrong_commands(int fd, int control)
{
	unsigned char buffer[LENGTH_MAX + 1];
	int cmd;

	for (cmd = 0; cmd < 256; cmd++) {
		int is_lock = cmd == DLM_USER_LOCK || cmd == DLM_USER_UNLOCK ||
			      cmd == DLM_USER_DEADLOCK || cmd == DLM_USER_PURGE;
		int is_space = cmd == DLM_USER_CREATE_LOCKSPACE ||
			       cmd == DLM_USER_REMOVE_LOCKSPACE;

		if (control ? is_space : is_lock)
			continue;
		fresh(buffer, cmd);
		check(refused(fd, buffer, REQUEST, EINVAL), "command of another device", cmd,
		      control);
	}
}

/* Lock ids that this open file does not own: never existed, of another file, gone. */
static void foreign_ids(int fd, int other)
{
	static const uint32_t ids[] = { 0, 1, 2, 16, 255, 4096, 0x7fffffff, 0x80000000, 0xffffffff };
	unsigned char buffer[LENGTH_MAX + 1];
	struct dlm_lock_result out;
	struct dlm_write_request *r;
	long mine;
	size_t i;

	lock_request(buffer, "devfuzz-foreign", 5, 0);
	mine = write(other, buffer, REQUEST + 15);
	check(mine > 0, "a lock of the other file", mine, 0);
	check(result(other, &out) == 0 && out.lksb.sb_status == 0, "it is granted",
	      out.lksb.sb_status, 0);
	for (i = 0; i <= sizeof(ids) / sizeof(*ids); i++) {
		uint32_t id = i < sizeof(ids) / sizeof(*ids) ? ids[i] : (uint32_t)mine;

		if (i < sizeof(ids) / sizeof(*ids) && id == (uint32_t)mine)
			continue;
		r = fresh(buffer, DLM_USER_UNLOCK);
		r->i.lock.lkid = id;
		check(refused(fd, buffer, REQUEST, ENOENT), "unlock of a foreign id", id, i);
		r->i.lock.flags = DLM_LKF_CANCEL;
		check(refused(fd, buffer, REQUEST, ENOENT), "cancel of a foreign id", id, i);
		r->i.lock.flags = DLM_LKF_FORCEUNLOCK;
		check(refused(fd, buffer, REQUEST, ENOENT), "forced unlock of a foreign id", id, i);
		r = fresh(buffer, DLM_USER_DEADLOCK);
		r->i.lock.lkid = id;
		check(refused(fd, buffer, REQUEST, ENOENT), "deadlock of a foreign id", id, i);
		r = lock_request(buffer, "", 3, DLM_LKF_CONVERT);
		r->i.lock.lkid = id;
		check(refused(fd, buffer, REQUEST, ENOENT), "conversion of a foreign id", id, i);
	}
	r = fresh(buffer, DLM_USER_UNLOCK);
	r->i.lock.lkid = mine;
	r->i.lock.lksb = (void *)3;
	check(write(other, buffer, REQUEST) == 0, "unlock by the owner", mine, 0);
	check(result(other, &out) == 0 && out.lksb.sb_status == -DLM_EUNLOCK, "it is unlocked",
	      out.lksb.sb_status, 0);
	check(refused(other, buffer, REQUEST, ENOENT), "a second unlock", mine, 0);
}

static void wrong_arguments(int fd)
{
	unsigned char buffer[LENGTH_MAX + 1];
	/* Not a constant: the compiler knows better than to write from there. */
	const void *volatile nowhere = (void *)8;
	struct dlm_write_request *r;
	int n;

	for (n = 6; n < 256; n++) {
		lock_request(buffer, "m", n, 0);
		check(refused(fd, buffer, REQUEST + 1, EINVAL), "mode", n, 0);
	}
	for (n = 1; n < 256; n++) {
		r = lock_request(buffer, "", 5, 0);
		r->i.lock.namelen = n;
		/* One byte less than the name says. */
		if (n <= NAME_MAX_LEN)
			check(refused(fd, buffer, REQUEST + n - 1, EINVAL), "name cut off", n, 0);
		else
			check(refused(fd, buffer, REQUEST + NAME_MAX_LEN, EINVAL), "long name", n, 0);
	}
	r = lock_request(buffer, "a", 5, 0);
	r->i.lock.castaddr = NULL;
	check(refused(fd, buffer, REQUEST + 1, EINVAL), "no completion routine", 0, 0);
	r = lock_request(buffer, "a", 5, 0);
	r->i.lock.lksb = NULL;
	check(refused(fd, buffer, REQUEST + 1, EINVAL), "no status block", 0, 0);
	lock_request(buffer, "a", 5, DLM_LKF_CANCEL);
	check(refused(fd, buffer, REQUEST + 1, EINVAL), "lock with CANCEL", 0, 0);
	lock_request(buffer, "a", 5, DLM_LKF_QUECVT);
	check(refused(fd, buffer, REQUEST + 1, EINVAL), "QUECVT without CONVERT", 0, 0);
	lock_request(buffer, "a", 5, DLM_LKF_EXPEDITE);
	check(refused(fd, buffer, REQUEST + 1, EINVAL), "EXPEDITE not NL", 0, 0);
	lock_request(buffer, "a", 5, DLM_LKF_CONVDEADLK);
	check(refused(fd, buffer, REQUEST + 1, EINVAL), "CONVDEADLK without CONVERT", 0, 0);
	lock_request(buffer, "devfuzz-none", 5, DLM_LKF_ORPHAN);
	check(refused(fd, buffer, REQUEST + 12, ENOENT), "adoption of nothing", 0, 0);
	errno = 0;
	check(write(fd, nowhere, REQUEST) == -1 && errno == EFAULT, "bad pointer", 0, 0);
}

static void wrong_reads(int fd, int control)
{
	unsigned char buffer[LENGTH_MAX];
	uint32_t version[3] = { 0 };
	int len;

	check(read(fd, version, sizeof(version)) == 12 && version[0] == 6 && version[1] == 0 &&
		      version[2] == 2,
	      "version", version[0], version[1]);
	for (len = 0; len < LENGTH_MAX; len++) {
		int want = control || len < 72 ? EINVAL : EAGAIN;

		/* A read of nothing is answered by the kernel before it comes to a device. */
		if (len == 12 || len == 0)
			continue;
		errno = 0;
		check(read(fd, buffer, len) == -1 && errno == want, "read", len, control);
	}
}

static void wrong_lockspaces(int control)
{
	unsigned char buffer[LENGTH_MAX + 1];
	struct dlm_write_request *r;

	r = fresh(buffer, DLM_USER_CREATE_LOCKSPACE);
	check(refused(control, buffer, REQUEST, EINVAL), "lockspace without a name", 0, 0);
	r->i.lspace.flags = 0x10;
	memcpy(buffer + 24, "devfuzz", 7);
	check(refused(control, buffer, REQUEST, EINVAL), "SOFTIRQ lockspace", 0, 0);
	r->i.lspace.flags = 0;
	memset(buffer + 24, 'x', 65);
	check(refused(control, buffer, REQUEST, EINVAL), "name of 65 bytes", 0, 0);
	memset(buffer + 24, 0, 100);
	memcpy(buffer + 24, "../../x", 7);
	check(refused(control, buffer, REQUEST, EINVAL), "name with a slash", 0, 0);
	r = fresh(buffer, DLM_USER_REMOVE_LOCKSPACE);
	r->i.lspace.minor = 0xfffffff0;
	check(refused(control, buffer, REQUEST, ENOENT), "removal of nothing", 0, 0);
}

/* After all that: a lock, a conversion with a value block, an unlock. */
static void still_works(int fd)
{
	unsigned char buffer[LENGTH_MAX + 1];
	struct dlm_lock_result out;
	struct dlm_write_request *r;
	long id;

	lock_request(buffer, "devfuzz-end", 5, DLM_LKF_VALBLK);
	id = write(fd, buffer, REQUEST + 11);
	check(id > 0, "lock", id, 0);
	check(result(fd, &out) == 0 && out.lksb.sb_status == 0, "granted", out.lksb.sb_status, 0);
	r = lock_request(buffer, "", 0, DLM_LKF_CONVERT | DLM_LKF_VALBLK);
	r->i.lock.lkid = id;
	check(write(fd, buffer, REQUEST) == 0, "conversion", id, 0);
	check(result(fd, &out) == 0 && out.lksb.sb_status == 0, "converted", out.lksb.sb_status, 0);
	r = fresh(buffer, DLM_USER_UNLOCK);
	r->i.lock.lkid = id;
	r->i.lock.lksb = (void *)3;
	check(write(fd, buffer, REQUEST) == 0, "unlock", id, 0);
	check(result(fd, &out) == 0 && out.lksb.sb_status == -DLM_EUNLOCK, "unlocked",
	      out.lksb.sb_status, 0);
}

/* A cancel because of a deadlock carries no pointers: the completion has those of the request. */
static void deadlock_works(const char *device)
{
	unsigned char buffer[LENGTH_MAX + 1];
	struct dlm_lock_result out;
	struct dlm_write_request *r;
	int fd = open_device(device), other = open_device(device);
	long id;

	lock_request(buffer, "devfuzz-dead", 5, 0);
	check(write(other, buffer, REQUEST + 12) > 0 && result(other, &out) == 0, "holder", 0, 0);
	id = write(fd, buffer, REQUEST + 12);
	check(id > 0, "waiter", id, 0);
	r = fresh(buffer, DLM_USER_DEADLOCK);
	r->i.lock.lkid = id;
	check(write(fd, buffer, REQUEST) == 0, "deadlock", id, 0);
	check(result(fd, &out) == 0 && out.lksb.sb_status == -EDEADLK, "ends the request",
	      out.lksb.sb_status, 0);
	check(out.user_lksb == (void *)3 && out.user_astaddr == (void *)1 &&
		      out.user_astparam == (void *)2,
	      "with the pointers of the request", (long)out.user_lksb, (long)out.user_astparam);
	close(fd);
	close(other);
}

/* A 32-bit program: its layout, short names kept whole, results in its form. */
static void compat_works(const char *device)
{
	unsigned char buffer[LENGTH_MAX + 1], out[128];
	struct dlm_write_request *r;
	int fd = open_device(device), native = open_device(device);
	struct dlm_lock_result result64;
	uint32_t word = 1;
	ssize_t got;
	long id, i;

	for (i = 0; i < 2; i++) {
		struct pollfd p = { .fd = fd, .events = POLLIN };

		/* Pointers of 4 bytes from 48 on, the value block at 68, the name at 100. */
		r = fresh(buffer, DLM_USER_LOCK);
		r->is64bit = 0;
		r->i.lock.mode = 5;
		r->i.lock.flags = DLM_LKF_VALBLK;
		r->i.lock.namelen = 2;
		for (word = 0; word < 5; word++) {
			uint32_t pointer = 0x100 + word;

			memcpy(buffer + 48 + 4 * word, &pointer, 4);
		}
		memcpy(buffer + REQUEST32, i ? "c2" : "c1", 2);
		/* With and without the padding that alignment to 8 bytes gives. */
		id = write(fd, buffer, REQUEST32 + 2 + 4 * i);
		check(id > 0, "lock of a 32-bit program", id, i);
		check(poll(&p, 1, RESULT_LIMIT_MS) == 1, "its result", id, i);
		got = read(fd, out, sizeof(out));
		check(got == 84, "length of its result", got, i);
		memcpy(&word, out + 16, 4);
		check(word == 0x101, "its completion routine", word, i);
		memcpy(&word, out + 24, 4);
		check(word == 0x104, "its status block", word, i);
		memcpy(&word, out + 32, 4);
		check((long)word == id, "its lock id", word, id);
		memcpy(&word, out + 48, 4);
		check(word == 52, "its value block", word, i);
	}
	/* The names are really these two bytes: another file collides with one of them only. */
	lock_request(buffer, "c1", 5, DLM_LKF_NOQUEUE);
	check(write(native, buffer, REQUEST + 2) > 0, "the same name", 0, 0);
	check(result(native, &result64) == 0 && result64.lksb.sb_status == -EAGAIN, "is taken",
	      result64.lksb.sb_status, 0);
	lock_request(buffer, "c3", 5, DLM_LKF_NOQUEUE);
	check(write(native, buffer, REQUEST + 2) > 0, "another name", 0, 0);
	check(result(native, &result64) == 0 && result64.lksb.sb_status == 0, "is free",
	      result64.lksb.sb_status, 0);
	close(fd);
	/* What the closed file held is free. */
	lock_request(buffer, "c1", 5, 0);
	check(write(native, buffer, REQUEST + 2) > 0, "the name of a closed file", 0, 0);
	check(result(native, &result64) == 0 && result64.lksb.sb_status == 0, "becomes free",
	      result64.lksb.sb_status, 0);
	close(native);
}

/* A persistent lock stays when its file is closed, is adopted in its mode only, and is purged. */
static void orphans_work(const char *device)
{
	unsigned char buffer[LENGTH_MAX + 1];
	struct dlm_lock_result out;
	struct dlm_write_request *r;
	int fd = open_device(device);
	long id, adopted;

	lock_request(buffer, "devfuzz-orphan", 5, DLM_LKF_PERSISTENT);
	id = write(fd, buffer, REQUEST + 14);
	check(id > 0 && result(fd, &out) == 0, "persistent lock", id, 0);
	close(fd);
	fd = open_device(device);
	lock_request(buffer, "devfuzz-orphan", 5, DLM_LKF_NOQUEUE);
	check(write(fd, buffer, REQUEST + 14) > 0, "beside the orphan", 0, 0);
	check(result(fd, &out) == 0 && out.lksb.sb_status == -EAGAIN, "is refused",
	      out.lksb.sb_status, 0);
	r = fresh(buffer, DLM_USER_UNLOCK);
	r->i.lock.lkid = id;
	check(refused(fd, buffer, REQUEST, ENOENT), "unlock of an orphan", id, 0);
	lock_request(buffer, "devfuzz-orphan", 3, DLM_LKF_ORPHAN);
	check(refused(fd, buffer, REQUEST + 14, EAGAIN), "adoption in another mode", id, 0);
	lock_request(buffer, "devfuzz-orphan", 5, DLM_LKF_ORPHAN | DLM_LKF_PERSISTENT);
	adopted = write(fd, buffer, REQUEST + 14);
	check(adopted == id, "adoption", adopted, id);
	close(fd);
	fd = open_device(device);
	r = fresh(buffer, DLM_USER_PURGE);
	check(write(fd, buffer, REQUEST) == 0, "purge", 0, 0);
	lock_request(buffer, "devfuzz-orphan", 5, DLM_LKF_ORPHAN);
	check(refused(fd, buffer, REQUEST + 14, ENOENT), "adoption after a purge", id, 0);
	lock_request(buffer, "devfuzz-orphan", 5, 0);
	check(write(fd, buffer, REQUEST + 14) > 0, "after a purge", 0, 0);
	check(result(fd, &out) == 0 && out.lksb.sb_status == 0, "the name is free",
	      out.lksb.sb_status, 0);
	/* All locks of this file, silently. */
	r = fresh(buffer, DLM_USER_PURGE);
	r->i.purge.pid = getpid();
	check(write(fd, buffer, REQUEST) == 0, "purge of the own locks", 0, 0);
	lock_request(buffer, "devfuzz-orphan", 5, DLM_LKF_NOQUEUE);
	check(write(fd, buffer, REQUEST + 14) > 0, "after a purge of the own locks", 0, 0);
	check(result(fd, &out) == 0 && out.lksb.sb_status == 0, "the name is free again",
	      out.lksb.sb_status, 0);
	close(fd);
}

int main(int argc, char **argv)
{
	char device[128];
	int control, fd, other;

	if (argc != 2) {
		fprintf(stderr, "usage: devfuzz LOCKSPACE\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	control = open_device("dlm-control");
	snprintf(device, sizeof(device), "dlm_%s", argv[1]);
	fd = open_device(device);
	other = open_device(device);
	wrong_lengths(control, "length on dlm-control", 1);
	wrong_lengths(fd, "length on the lockspace", 0);
	wrong_versions(control);
	wrong_versions(fd);
	wrong_commands(control, 1);
	wrong_commands(fd, 0);
	wrong_reads(control, 1);
	wrong_reads(fd, 0);
	wrong_arguments(fd);
	wrong_lockspaces(control);
	foreign_ids(fd, other);
	deadlock_works(device);
	compat_works(device);
	orphans_work(device);
	still_works(fd);
	printf("%d passed, %d failed\n", passed, failed);
	return failed != 0;
}
