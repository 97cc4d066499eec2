/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A count for every packet, by its reason or by what else happened (METRIC_… in maps.h). */
#pragma once

static __always_inline void count(u32 row, u32 length)
{
	struct metric *m = metrics.lookup(&row);

	if (m) {
		m->packets += 1;
		m->bytes += length;
	}
}
