/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a dead predecessor's connection to its end, so that nothing that was sent over it is carried out later (nbd.h).
 *
 * Who died left unknown bytes of the last answer unread, so answers are looked for in all that comes: by their magic number
 * and the cookie of a command that is noted. Data of reads that are answered on the same connection can hold such bytes, too,
 * if the guest put them there; it would fool nobody but itself.
 *
 * Two commands can be noted that no answer comes for: one that was sent in part, and one whose answer was read by the
 * process a moment before it died. So when no more than these are left and nothing is said for GRACE_NS the server is
 * told that nothing more comes, by which it ends the connection when it has done what it has. For that, and for more
 * answers than these, it is waited as long as the server says anything, and SILENCE_NS when it says nothing at all.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "nbd_priv.h"
#include "num.h"

#define SIMPLE_MAGIC     0x67446698U
#define STRUCTURED_MAGIC 0x668e33efU
#define COOKIE_AT        8 /* of both kinds of answer */
#define HEAD_BYTES       16
#define READ_BYTES       16384
#define READS_MAX        64 /* at a time; more is still there the next time */
#define GRACE_NS         NS_PER_S
#define SILENCE_NS       (60 * NS_PER_S)

void nbd_settle_begin(struct nbd_settle *s, int fd, _Atomic uint64_t *kept)
{
	*s = (struct nbd_settle) { .fd = fd, .kept = kept };
	for (unsigned i = 0; i < NBD_COMMANDS; i++) {
		uint64_t cookie = atomic_load(&kept[i]);

		s->unsure |= cookie == NBD_SENDING;
		s->nsent += cookie && cookie != NBD_SENDING;
	}
	s->quiet_at = clock_ns() + GRACE_NS;
	s->silent_at = clock_ns() + SILENCE_NS;
}

static void answered(struct nbd_settle *s, uint64_t cookie)
{
	if (!cookie || cookie == NBD_SENDING)
		return;
	for (unsigned i = 0; i < NBD_COMMANDS; i++)
		if (atomic_load(&s->kept[i]) == cookie) {
			atomic_store(&s->kept[i], 0);
			s->nsent--;
			return;
		}
}

/* Looks for answers that begin in the first n bytes of buf, behind which there are HEAD_BYTES more. */
static void look(struct nbd_settle *s, const uint8_t *buf, size_t n)
{
	for (size_t i = 0; i < n && s->nsent; i++) {
		uint32_t magic;
		uint64_t cookie;

		memcpy(&magic, buf + i, sizeof(magic));
		magic = be32toh(magic);
		if (magic != SIMPLE_MAGIC && magic != STRUCTURED_MAGIC)
			continue;
		memcpy(&cookie, buf + i + COOKIE_AT, sizeof(cookie));
		answered(s, be64toh(cookie));
	}
}

/* Reads what there is. It is looked at before it is taken, as this process may die in the midst of it, too. False: the
 * connection is over. */
static bool read_on(struct nbd_settle *s)
{
	uint8_t buf[sizeof(s->tail) + READ_BYTES];
	unsigned left = READS_MAX;
	ssize_t n;

	do {
		size_t len;

		memcpy(buf, s->tail, s->ntail);
		n = recv(s->fd, buf + s->ntail, READ_BYTES, MSG_DONTWAIT | MSG_PEEK);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return false;
		if (n < 0)
			break;
		s->quiet_at = clock_ns() + GRACE_NS;
		s->silent_at = clock_ns() + SILENCE_NS;
		len = s->ntail + (size_t)n;
		if (len >= HEAD_BYTES)
			look(s, buf, len - HEAD_BYTES + 1);
		recv(s->fd, buf + s->ntail, (size_t)n, MSG_DONTWAIT);
		s->ntail = (unsigned)MIN(len, HEAD_BYTES - 1);
		memmove(s->tail, buf + len - s->ntail, s->ntail);
	} while (--left);
	return true;
}

uint64_t nbd_settle_go(struct nbd_settle *s)
{
	uint64_t now;

	if (!s->nsent && !s->unsure)
		return 0;
	if (!read_on(s) || (!s->nsent && !s->unsure))
		return 0;
	now = clock_ns();
	if ((s->shut || s->nsent > 1) && now < s->silent_at)
		return s->silent_at;
	if (!s->shut && s->nsent && now < s->quiet_at)
		return s->quiet_at;
	if (!s->shut) {
		shutdown(s->fd, SHUT_WR);
		s->shut = true;
		s->silent_at = now + (s->nsent > 1 ? GRACE_NS : SILENCE_NS);
		return s->silent_at;
	}
	log_warn("the NBD server owes up to %u answers and says nothing: what it still carries out of a dead "
		 "process may "
		 "come after what is sent now",
		 s->nsent + s->unsure);
	return 0;
}

void nbd_settle_forget(_Atomic uint64_t *kept)
{
	for (unsigned i = 0; i < NBD_COMMANDS; i++)
		atomic_store(&kept[i], 0);
}

void nbd_settle_end(struct nbd_settle *s)
{
	if (s->fd < 0)
		return;
	close(s->fd);
	s->fd = -1;
	nbd_settle_forget(s->kept);
}
