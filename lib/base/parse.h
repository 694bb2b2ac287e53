/* SPDX-License-Identifier: Apache-2.0 */
/* Words of a command line or a configuration file into numbers and key=value lists, with errors that name
 * them. */
#ifndef BASE_PARSE_H
#define BASE_PARSE_H

#include <stddef.h>
#include <stdint.h>

/* "512", "64K", "512M", "2G", "1T" (powers of 1024) into bytes. -EINVAL for anything else, -ERANGE if it
 * overflows. */
int parse_size(const char *word, uint64_t *bytes);

/* A decimal number between min and max. -EINVAL if it is none, -ERANGE if it is outside. */
int parse_u64(const char *word, uint64_t min, uint64_t max, uint64_t *value);

/* "on" and "off" into 1 and 0, anything else -EINVAL. */
int parse_on_off(const char *word);

/* "52:54:00:12:34:56" into its bytes. -EINVAL for anything else, -EADDRNOTAVAIL for zeroes,
 * -ERANGE for a group's address. */
int parse_mac(const char *word, uint8_t mac[6]);

/*
 * Takes the next "key=value" or "key" off a comma-separated list, which it modifies: *key and *value (NULL if
 * there is no '=') point into the list and *list moves on. A comma in a value is written twice. 1, or 0 at
 * the end, -EINVAL for an empty key, also that after a comma at the end; *list is as it was then.
 */
int parse_next_pair(char **list, char **key, char **value);

#endif
