/* Overspill's arguments in plugstack.conf: nodes= python= proxy= socket=. */
#ifndef OVERSPILL_ARGUMENTS_H
#define OVERSPILL_ARGUMENTS_H

#include <stdbool.h>

/* Room for one reason, as it stands in a log line. Longer ones are cut. */
#define DEFECT_SIZE 512

/* The values point into SPANK's own copy of the line, which lives as long as the plugin does. */
struct arguments {
    const char *nodes;  /* hostlist of the virtual nodes: ovs[1-4] */
    const char *python; /* absolute path of the interpreter that runs the proxy */
    const char *proxy;  /* absolute path of the proxy's __main__.py */
    const char *socket; /* absolute path of the relay's Unix socket */
    bool are_given;     /* false: a bare line, as on a login node; nothing but the option is wanted */
    char defect[DEFECT_SIZE]; /* the first thing wrong with them, empty if they are sound */
};

void arguments_parse(struct arguments *arguments, int count, char **values);

/* Note a defect, unless one is known already: the first is the one to mend. */
void arguments_reject(struct arguments *arguments, const char *object, const char *reason);

#endif
