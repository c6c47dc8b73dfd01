// SPDX-License-Identifier: GPL-2.0-only
/*
 * A lock client for test scenarios, linked to the distribution's libdlm.
 *
 * Reads commands from standard input, one a line, and prints one line per event on standard
 * output, each beginning with the time in milliseconds (CLOCK_MONOTONIC) and written at once.
 * Every command is answered by a line "ok COMMAND ..." or "error COMMAND ...". Completions and
 * blocking callbacks are printed when they come, also while no command is running:
 *
 *   12345.678 ok lock a lkid=1
 *   12345.901 ast a status=0 mode=EX lkid=1 flags=- lvb=hello
 *   12350.002 bast a
 *
 * Nothing here waits for a time to pass: "wait" waits for a completion, with a limit.
 *
 * Commands (H is a name the script gives to a lock, NAME a resource):
 *   create LS | open LS       one lockspace at a time
 *   close | release LS [force]
 *   lock H NAME MODE [FLAG...] [lvb TEXT]
 *   convert H MODE [FLAG...] [lvb TEXT]
 *   unlock H [FLAG...]        cancel H     deadlock H
 *   wait H [LIMIT_MS]         until nothing is outstanding on H
 *   wait-bast H [LIMIT_MS]    until a blocking callback came since the last completion
 *   read-lvb H                show
 *   purge NODE PID            quit
 * MODE is NL CR CW PR PW EX. FLAG is noqueue quecvt ivvalblk convdeadlk persistent nodlckwt
 * expedite noqueuebast headque noorder orphan altpr altcw forceunlock valblk nobast.
 * A TEXT of the form hex:0a0b... gives bytes.
 */
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <libdlm.h>

#define LOCKS_MAX 4096
#define WORDS_MAX 64
#define LINE_MAX_LEN 4096
#define LIMIT_DEFAULT_MS 60000
#define FLAG_NOBAST 0x40000000u

struct lock {
	char handle[32];
	struct dlm_lksb lksb;
	char lvb[DLM_LVB_LEN];
	int in_use;		/* the handle has a meaning */
	int outstanding;	/* completions that are to come */
	int mode;		/* granted, or -1 */
	int wanted;		/* of the operation that is outstanding */
	int basts;		/* since the last completion */
};

static struct lock locks[LOCKS_MAX];
static dlm_lshandle_t ls;
static char ls_name[DLM_LOCKSPACE_LEN + 1];

static const char *const mode_names[] = { "NL", "CR", "CW", "PR", "PW", "EX" };

static const struct {
	const char *name;
	uint32_t flag;
} flag_names[] = {
	{ "noqueue", LKF_NOQUEUE },	{ "valblk", LKF_VALBLK },
	{ "quecvt", LKF_QUECVT },	{ "ivvalblk", LKF_IVVALBLK },
	{ "convdeadlk", LKF_CONVDEADLK }, { "persistent", LKF_PERSISTENT },
	{ "nodlckwt", LKF_NODLCKWT },	{ "expedite", LKF_EXPEDITE },
	{ "noqueuebast", LKF_NOQUEUEBAST }, { "headque", LKF_HEADQUE },
	{ "noorder", LKF_NOORDER },	{ "orphan", LKF_ORPHAN },
	{ "altpr", LKF_ALTPR },		{ "altcw", LKF_ALTCW },
	{ "forceunlock", LKF_FORCEUNLOCK }, { "nobast", FLAG_NOBAST },
};

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
	va_list args;

	printf("%.3f ", now_ms());
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

/* A value block as text if it is one, otherwise in hex; its trailing zeros are left out. */
static const char *lvb_text(const char *lvb)
{
	static char out[2 * DLM_LVB_LEN + 8];
	int len = DLM_LVB_LEN, text = 1, i;
	size_t at;

	while (len && !lvb[len - 1])
		len--;
	for (i = 0; i < len; i++)
		text &= isgraph((unsigned char)lvb[i]) != 0;
	if (!len)
		return "-";
	if (text && strncmp(lvb, "hex:", 4) && strcmp(lvb, "-")) {
		memcpy(out, lvb, len);
		out[len] = 0;
		return out;
	}
	at = sprintf(out, "hex:");
	for (i = 0; i < len; i++)
		at += sprintf(out + at, "%02x", (unsigned char)lvb[i]);
	return out;
}

static const char *mode_name(int mode)
{
	return mode < 0 || mode > 5 ? "-" : mode_names[mode];
}

static const char *sb_flags_text(int flags)
{
	static char out[64];

	snprintf(out, sizeof(out), "%s%s%s", flags & DLM_SBF_DEMOTED ? ",DEMOTED" : "",
		 flags & DLM_SBF_VALNOTVALID ? ",VALNOTVALID" : "",
		 flags & DLM_SBF_ALTMODE ? ",ALTMODE" : "");
	return *out ? out + 1 : "-";
}

static const char *status_text(int status)
{
	static char out[32];

	switch (status) {
	case 0: return "0";
	case EUNLOCK: return "EUNLOCK";
	case ECANCEL: return "ECANCEL";
	case EAGAIN: return "EAGAIN";
	case EDEADLK: return "EDEADLK";
	}
	snprintf(out, sizeof(out), "%d", status);
	return out;
}

static void ast(void *arg)
{
	struct lock *l = arg;
	int status = l->lksb.sb_status;

	/* An unlock ends whatever else was outstanding. */
	if (status == EUNLOCK)
		l->outstanding = 0;
	else if (l->outstanding)
		l->outstanding--;
	l->basts = 0;
	if (status == 0)
		l->mode = l->wanted;
	say("ast %s status=%s mode=%s lkid=%x flags=%s lvb=%s", l->handle, status_text(status),
	    mode_name(l->mode), l->lksb.sb_lkid, sb_flags_text(l->lksb.sb_flags), lvb_text(l->lvb));
	if (status == EUNLOCK || (status && l->mode < 0))
		l->in_use = 0;
}

static void bast(void *arg)
{
	struct lock *l = arg;

	l->basts++;
	say("bast %s", l->handle);
}

static struct lock *find(const char *handle)
{
	int i;

	for (i = 0; i < LOCKS_MAX; i++)
		if (locks[i].in_use && !strcmp(locks[i].handle, handle))
			return &locks[i];
	return NULL;
}

/* A lock that is gone keeps its place until another one needs it: its last words are read late. */
static struct lock *make(const char *handle)
{
	int i;

	for (i = 0; i < LOCKS_MAX; i++)
		if (!locks[i].in_use) {
			memset(&locks[i], 0, sizeof(locks[i]));
			snprintf(locks[i].handle, sizeof(locks[i].handle), "%s", handle);
			locks[i].lksb.sb_lvbptr = locks[i].lvb;
			locks[i].mode = -1;
			return &locks[i];
		}
	return NULL;
}

static int parse_mode(const char *word)
{
	int i;

	for (i = 0; i < 6; i++)
		if (!strcasecmp(word, mode_names[i]))
			return i;
	return -1;
}

static int parse_lvb(const char *text, char *lvb)
{
	size_t len = strlen(text), i;
	unsigned int byte;

	memset(lvb, 0, DLM_LVB_LEN);
	if (strncmp(text, "hex:", 4)) {
		if (len > DLM_LVB_LEN)
			return -1;
		memcpy(lvb, text, len);
		return 0;
	}
	text += 4;
	len = strlen(text) / 2;
	if (len > DLM_LVB_LEN || strlen(text) % 2)
		return -1;
	for (i = 0; i < len; i++) {
		if (sscanf(text + 2 * i, "%2x", &byte) != 1)
			return -1;
		lvb[i] = byte;
	}
	return 0;
}

/* Flags and the value block at the end of a command; the value block goes to lvb. */
static int parse_flags(char **words, int n, uint32_t *flags, char *lvb)
{
	size_t f;
	int i;

	*flags = 0;
	for (i = 0; i < n; i++) {
		if (!strcasecmp(words[i], "lvb")) {
			if (i + 1 >= n || parse_lvb(words[i + 1], lvb)) {
				say("error flags: lvb needs up to %d bytes", DLM_LVB_LEN);
				return -1;
			}
			*flags |= LKF_VALBLK;
			i++;
			continue;
		}
		for (f = 0; f < sizeof(flag_names) / sizeof(*flag_names); f++)
			if (!strcasecmp(words[i], flag_names[f].name))
				break;
		if (f == sizeof(flag_names) / sizeof(*flag_names)) {
			say("error flags: unknown flag %s", words[i]);
			return -1;
		}
		*flags |= flag_names[f].flag;
	}
	return 0;
}

static void failed(const char *what, const char *whom)
{
	int error = errno;

	say("error %s %s errno=%d %s", what, whom, error, strerror(error));
}

/* Takes what the kernel has to tell; prints it through ast() and bast(). */
static void dispatch(void)
{
	if (dlm_dispatch(dlm_ls_get_fd(ls)))
		failed("dispatch", ls_name);
}

static int readable(int fd, int limit_ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, limit_ms) > 0;
}

static int need_ls(const char *command)
{
	if (!ls)
		say("error %s: no lockspace; create or open one first", command);
	return !ls;
}

static void start(struct lock *l, const char *command, int mode, uint32_t flags, const char *name)
{
	int before = l->wanted, error;

	l->wanted = mode;
	l->outstanding++;
	error = dlm_ls_lock(ls, mode, &l->lksb, flags & ~FLAG_NOBAST, name, name ? strlen(name) : 0,
			    0, ast, l, flags & FLAG_NOBAST ? NULL : bast, NULL);
	if (error) {
		failed(command, l->handle);
		l->outstanding--;
		l->wanted = before;
		if (l->mode < 0 && !l->outstanding)
			l->in_use = 0;
		return;
	}
	if (flags & LKF_ORPHAN) {
		/* An orphan is adopted at once and no completion tells it. */
		l->outstanding--;
		l->mode = mode;
	}
	say("ok %s %s lkid=%x", command, l->handle, l->lksb.sb_lkid);
}

static void do_lock(char **words, int n)
{
	struct lock *l;
	uint32_t flags;
	int mode;

	if (need_ls("lock"))
		return;
	if (n < 4 || (mode = parse_mode(words[3])) < 0) {
		say("error lock: want HANDLE NAME MODE [FLAG...] [lvb TEXT]");
		return;
	}
	if (find(words[1])) {
		say("error lock %s: the handle is in use", words[1]);
		return;
	}
	l = make(words[1]);
	if (!l) {
		say("error lock %s: more than %d locks", words[1], LOCKS_MAX);
		return;
	}
	if (parse_flags(words + 4, n - 4, &flags, l->lvb))
		return;
	l->in_use = 1;
	start(l, "lock", mode, flags, words[2]);
}

static struct lock *known(const char *command, char **words, int n, int want)
{
	struct lock *l;

	if (need_ls(command))
		return NULL;
	if (n < want) {
		say("error %s: want a handle", command);
		return NULL;
	}
	l = find(words[1]);
	if (!l)
		say("error %s %s: no such lock", command, words[1]);
	return l;
}

static void do_convert(char **words, int n)
{
	struct lock *l = known("convert", words, n, 3);
	uint32_t flags;
	int mode;

	if (!l)
		return;
	mode = parse_mode(words[2]);
	if (mode < 0) {
		say("error convert %s: no mode %s", words[1], words[2]);
		return;
	}
	if (parse_flags(words + 3, n - 3, &flags, l->lvb))
		return;
	start(l, "convert", mode, flags | LKF_CONVERT, NULL);
}

static void do_unlock(char **words, int n)
{
	struct lock *l = known("unlock", words, n, 2);
	uint32_t flags;

	if (!l || parse_flags(words + 2, n - 2, &flags, l->lvb))
		return;
	l->outstanding++;
	if (dlm_ls_unlock(ls, l->lksb.sb_lkid, flags, &l->lksb, l)) {
		l->outstanding--;
		failed("unlock", l->handle);
	} else
		say("ok unlock %s", l->handle);
}

static void do_cancel(char **words, int n, int deadlock)
{
	struct lock *l = known(words[0], words, n, 2);
	int error;

	if (!l)
		return;
	if (deadlock)
		error = dlm_ls_deadlock_cancel(ls, l->lksb.sb_lkid, 0);
	else
		error = dlm_ls_unlock(ls, l->lksb.sb_lkid, LKF_CANCEL, &l->lksb, l);
	if (error)
		failed(words[0], l->handle);
	else
		say("ok %s %s", words[0], l->handle);
}

static void do_wait(char **words, int n, int for_bast)
{
	struct lock *l;
	double end;
	int left;

	if (need_ls(words[0]))
		return;
	if (n < 2) {
		say("error %s: want HANDLE [LIMIT_MS]", words[0]);
		return;
	}
	end = now_ms() + (n > 2 ? atoi(words[2]) : LIMIT_DEFAULT_MS);
	for (;;) {
		l = find(words[1]);
		if (!l && for_bast) {
			say("error %s %s: no such lock", words[0], words[1]);
			return;
		}
		if (!l || (for_bast ? l->basts : !l->outstanding)) {
			say("ok %s %s mode=%s", words[0], words[1], l ? mode_name(l->mode) : "-");
			return;
		}
		left = end - now_ms();
		if (left <= 0 || !readable(dlm_ls_get_fd(ls), left)) {
			say("error %s %s: limit reached", words[0], words[1]);
			return;
		}
		dispatch();
	}
}

static void do_show(void)
{
	int i;

	for (i = 0; i < LOCKS_MAX; i++)
		if (locks[i].in_use)
			say("lock %s lkid=%x mode=%s outstanding=%d basts=%d lvb=%s",
			    locks[i].handle, locks[i].lksb.sb_lkid, mode_name(locks[i].mode),
			    locks[i].outstanding, locks[i].basts, lvb_text(locks[i].lvb));
	say("ok show");
}

static void do_lockspace(char **words, int n)
{
	int create = !strcmp(words[0], "create");

	if (n < 2 || strlen(words[1]) > DLM_LOCKSPACE_LEN) {
		say("error %s: want the name of a lockspace", words[0]);
		return;
	}
	if (ls) {
		say("error %s %s: %s is open", words[0], words[1], ls_name);
		return;
	}
	ls = create ? dlm_create_lockspace(words[1], 0600) : dlm_open_lockspace(words[1]);
	if (!ls) {
		failed(words[0], words[1]);
		return;
	}
	snprintf(ls_name, sizeof(ls_name), "%s", words[1]);
	say("ok %s %s", words[0], ls_name);
}

static void forget_locks(void)
{
	memset(locks, 0, sizeof(locks));
	ls = NULL;
}

static void do_release(char **words, int n)
{
	int error;

	if (n < 2) {
		say("error release: want the name of a lockspace");
		return;
	}
	if (!ls) {
		ls = dlm_open_lockspace(words[1]);
		if (!ls) {
			failed("release", words[1]);
			return;
		}
	}
	error = dlm_release_lockspace(words[1], ls, n > 2 && !strcmp(words[2], "force"));
	forget_locks();
	if (error)
		failed("release", words[1]);
	else
		say("ok release %s", words[1]);
}

static void run(char **words, int n)
{
	struct lock *l;
	const char *c = words[0];

	if (!strcmp(c, "create") || !strcmp(c, "open")) {
		do_lockspace(words, n);
	} else if (!strcmp(c, "close")) {
		if (need_ls(c))
			return;
		dlm_close_lockspace(ls);
		forget_locks();
		say("ok close");
	} else if (!strcmp(c, "release")) {
		do_release(words, n);
	} else if (!strcmp(c, "lock")) {
		do_lock(words, n);
	} else if (!strcmp(c, "convert")) {
		do_convert(words, n);
	} else if (!strcmp(c, "unlock")) {
		do_unlock(words, n);
	} else if (!strcmp(c, "cancel")) {
		do_cancel(words, n, 0);
	} else if (!strcmp(c, "deadlock")) {
		do_cancel(words, n, 1);
	} else if (!strcmp(c, "wait")) {
		do_wait(words, n, 0);
	} else if (!strcmp(c, "wait-bast")) {
		do_wait(words, n, 1);
	} else if (!strcmp(c, "read-lvb")) {
		l = known(c, words, n, 2);
		if (l)
			say("ok read-lvb %s lvb=%s flags=%s", l->handle, lvb_text(l->lvb),
			    sb_flags_text(l->lksb.sb_flags));
	} else if (!strcmp(c, "purge")) {
		if (need_ls(c))
			return;
		if (n < 3)
			say("error purge: want NODE PID");
		else if (dlm_ls_purge(ls, atoi(words[1]), atoi(words[2])))
			failed("purge", words[1]);
		else
			say("ok purge");
	} else if (!strcmp(c, "show")) {
		do_show();
	} else if (!strcmp(c, "quit")) {
		say("ok quit");
		exit(0);
	} else {
		say("error unknown command %s", c);
	}
}

static void run_line(char *line)
{
	char *words[WORDS_MAX], *save = NULL, *word;
	int n = 0;

	for (word = strtok_r(line, " \t\r", &save); word; word = strtok_r(NULL, " \t\r", &save)) {
		if (n == WORDS_MAX) {
			say("error line: more than %d words", WORDS_MAX);
			return;
		}
		words[n++] = word;
	}
	if (n && words[0][0] != '#')
		run(words, n);
}

/* Reads what there is of standard input and runs the lines that are complete. */
static int feed(void)
{
	static char buffer[LINE_MAX_LEN];
	static size_t filled;
	ssize_t got = read(0, buffer + filled, sizeof(buffer) - filled - 1);
	char *end;

	if (got <= 0)
		return -1;
	filled += got;
	buffer[filled] = 0;
	while ((end = strchr(buffer, '\n'))) {
		*end = 0;
		run_line(buffer);
		filled -= end + 1 - buffer;
		memmove(buffer, end + 1, filled + 1);
	}
	if (filled == sizeof(buffer) - 1) {
		say("error line: longer than %d bytes", LINE_MAX_LEN);
		filled = 0;
	}
	return 0;
}

int main(void)
{
	struct pollfd fds[2] = { { .fd = 0, .events = POLLIN }, { .events = POLLIN } };

	say("ready pid=%d", getpid());
	for (;;) {
		fds[1].fd = ls ? dlm_ls_get_fd(ls) : -1;
		if (poll(fds, 2, -1) < 0) {
			if (errno == EINTR)
				continue;
			failed("poll", "-");
			return 1;
		}
		if (fds[1].revents & POLLIN)
			dispatch();
		if (fds[0].revents && feed())
			return 0;
	}
}
