/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the rig share: where a request's parts lie. */
#ifndef RIG_PRIV_H
#define RIG_PRIV_H

#define HEADER_STEP 32
#define STATUS_AT   16 /* behind the header */

#endif
