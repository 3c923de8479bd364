"""Tools for tests of pfs and of programs that use it: the seeded simulation of scheduler, clock and disk."""
