/* The action of a signal, as the kernel has it. */
#ifndef AL_ACTION_H
#define AL_ACTION_H

#include "base/compat.h"
#include "signals/watchdog.h"

#include <signal.h>
#ifndef _WIN32
#include <errno.h>
typedef struct sigaction al_action;
#else
typedef struct {
    void (*sa_handler)(int);
} al_action;
#endif

/* Read the action of a signal.  Returns 0; -1 with OSError.  Pure C. */
static inline int
al_action_read(int signum, al_action *action)
{
#ifndef _WIN32
    if (sigaction(signum, NULL, action) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    al_watchdog_reveal(action);
#else
    (void)signum;
    action->sa_handler = SIG_DFL;
#endif
    return 0;
}

/* Set the action of a signal.  Returns 0; -1 with OSError.  Pure C. */
static inline int
al_action_write(int signum, const al_action *action)
{
#ifndef _WIN32
    if (sigaction(signum, action, NULL) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
#else
    (void)signum;
    (void)action;
#endif
    return 0;
}

/* Tell whether an action calls a function: not SIG_DFL, not SIG_IGN.  Pure
   C. */
static inline bool
al_action_is_function(const al_action *action)
{
    return action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN;
}

/* Call a function that C code has set, as the kernel would.  A function with
   SA_SIGINFO is not called: there is no siginfo_t and no context for it.
   Returns whether the function was called.  Pure C. */
static inline bool
al_action_call(const al_action *action, int signum)
{
#ifndef _WIN32
    if (action->sa_flags & SA_SIGINFO) {
        return false;
    }
#endif
    action->sa_handler(signum);
    return true;
}

#endif
