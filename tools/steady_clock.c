/* A clock for tools/instructions.py, preloaded into the programs it counts.
 *
 * A batch gives way to the loop after 10 ms of work.  Under valgrind a program
 * is some fifty times slower, and by how much depends on the machine and its
 * load; so would the number of loop iterations, and with it the count.  This
 * clock moves on by one microsecond each time it is read, and by nothing else.
 */
#include <time.h>

#define START 1000000 /* seconds; any time will do */

int
clock_gettime(clockid_t id, struct timespec *now)
{
    static long microseconds;

    (void)id;
    microseconds++;
    now->tv_sec = START + microseconds / 1000000;
    now->tv_nsec = microseconds % 1000000 * 1000;
    return 0;
}
