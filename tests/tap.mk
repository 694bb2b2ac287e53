# SPDX-License-Identifier: Apache-2.0
# Every test program prints TAP on stdout: Criterion's by this variable, shell tests by tests/support/tap.sh.
# The thread sanitizer would have each process with threads wait for a second at its exit, so each single test.
AM_TESTS_ENVIRONMENT = CRITERION_OUTPUTS=tap:-; LC_ALL=C.UTF-8; export CRITERION_OUTPUTS LC_ALL; \
	top_srcdir='$(abs_top_srcdir)'; top_builddir='$(abs_top_builddir)'; export top_srcdir top_builddir; \
	TSAN_OPTIONS=atexit_sleep_ms=10; export TSAN_OPTIONS; \
	LSAN_OPTIONS=print_suppressions=0:suppressions='$(abs_top_srcdir)'/tests/lsan.supp; export LSAN_OPTIONS;
TEST_EXTENSIONS = .sh
LOG_COMPILER = $(SHELL) $(top_srcdir)/tests/in-tmp
LOG_DRIVER = env AM_TAP_AWK='$(AWK)' $(SHELL) $(top_srcdir)/build-aux/tap-driver.sh
SH_LOG_DRIVER = $(LOG_DRIVER)
