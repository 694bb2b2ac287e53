/* SPDX-License-Identifier: Apache-2.0 */
/* Words of a command line or a configuration file into numbers and key=value lists. */
#include "parse.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "num.h"

/* Digits at *word into *value, moving *word past them. */
static int parse_digits(const char **word, uint64_t *value)
{
	const char *p = *word;
	uint64_t v = 0;

	if (!isdigit((unsigned char)*p))
		return -EINVAL;
	for (; isdigit((unsigned char)*p); p++)
		if (!num_mul(v, 10, &v) || !num_add(v, (uint64_t)(*p - '0'), &v))
			return -ERANGE;
	*word = p;
	*value = v;
	return 0;
}

int parse_size(const char *word, uint64_t *bytes)
{
	static const char units[] = "KMGT";
	uint64_t v;
	int err = parse_digits(&word, &v);

	if (err)
		return err;
	if (*word) {
		const char *unit = strchr(units, toupper((unsigned char)*word));

		if (!unit || word[1])
			return -EINVAL;
		if (!num_mul(v, 1ULL << (10 * (unit - units + 1)), &v))
			return -ERANGE;
	}
	*bytes = v;
	return 0;
}

int parse_u64(const char *word, uint64_t min, uint64_t max, uint64_t *value)
{
	uint64_t v;
	int err = parse_digits(&word, &v);

	if (err)
		return err;
	if (*word)
		return -EINVAL;
	if (v < min || v > max)
		return -ERANGE;
	*value = v;
	return 0;
}

int parse_on_off(const char *word)
{
	if (!strcmp(word, "on"))
		return 1;
	return strcmp(word, "off") ? -EINVAL : 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int parse_mac(const char *word, uint8_t mac[6])
{
	static const uint8_t none[6];

	for (unsigned i = 0; i < 6; i++, word += 3) {
		int high = hex_digit(word[0]), low = high < 0 ? -1 : hex_digit(word[1]);

		if (low < 0 || word[2] != (i < 5 ? ':' : '\0'))
			return -EINVAL;
		mac[i] = (uint8_t)(high << 4 | low);
	}
	if (!memcmp(mac, none, sizeof(none)))
		return -EADDRNOTAVAIL;
	return mac[0] & 1 ? -ERANGE : 0;
}

/* Ends the value at p, its doubled commas made single in place; what follows its comma. */
static char *end_value(char *p)
{
	char *to = p;

	while (*p) {
		if (*p == ',' && *++p != ',')
			break;
		*to++ = *p++;
	}
	*to = '\0';
	return p;
}

/* Whether the last comma separates: of those at the end, each two are one of the value. */
static bool ends_open(const char *list)
{
	size_t len = strlen(list), commas = 0;

	while (commas < len && list[len - 1 - commas] == ',')
		commas++;
	return commas % 2;
}

int parse_next_pair(char **list, char **key, char **value)
{
	char *p = *list;

	if (!p || !*p)
		return 0;
	if (ends_open(p))
		return -EINVAL;
	*key = p;
	p += strcspn(p, ",=");
	if (p == *key)
		return -EINVAL;
	*value = NULL;
	if (*p == '=') {
		*p++ = '\0';
		*value = p;
		*list = end_value(p);
		return 1;
	}
	if (*p)
		*p++ = '\0';
	*list = p;
	return 1;
}
