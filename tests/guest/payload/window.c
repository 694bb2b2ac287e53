/* SPDX-License-Identifier: Apache-2.0 */
/* Windows in which the bare guest counts what it does. */
#include "window.h"

#define LOOK_MS 5

static void begin(struct window *w)
{
	w->clear();
	w->running = true;
	w->begun = tsc();
}

static void end(struct window *w)
{
	if (w->running)
		w->tell((tsc() - w->begun) * 1000 / w->khz);
	w->running = false;
}

void window_open(struct window *w)
{
	w->khz = tsc_khz();
	print("!ready\n");
	if (w->seconds)
		begin(w);
}

static void obey(struct window *w, uint8_t byte)
{
	char text[] = { '!', (char)byte, '\n', '\0' };

	if (byte == 'e')
		end(w);
	if (byte == 'q')
		w->quit = true;
	print(text);
	if (byte == 'b')
		begin(w);
}

bool window_look(struct window *w)
{
	uint64_t now = tsc();

	if (now - w->looked < w->khz * LOOK_MS)
		return false;
	w->looked = now;
	if (w->seconds && now - w->begun >= w->seconds * w->khz * 1000) {
		end(w);
		w->quit = true;
	} else if (!w->seconds && has_byte()) {
		obey(w, read_byte());
	}
	return true;
}
