#define _GNU_SOURCE /* asprintf */
#include "kept_environment.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* These make the C library load code or behave otherwise before Python's first line. Python's own variables are shut
 * out by -I. A name that carries the prefix already gets another: taking one off always gives back the original. */
static bool must_be_renamed(const char *entry)
{
    static const char *const PREFIXES[] = {"LD_",       "GCONV_PATH=", "GLIBC_TUNABLES=",
                                           "LOCPATH=", KEPT_PREFIX,   TASK_PROLOG};

    for (size_t i = 0; i < sizeof(PREFIXES) / sizeof(PREFIXES[0]); i++)
        if (strncmp(entry, PREFIXES[i], strlen(PREFIXES[i])) == 0)
            return true;
    return false;
}

char **kept_environment(char **environment, const char *task_prolog)
{
    size_t count = 0;

    while (environment != NULL && environment[count] != NULL)
        count++;
    char **kept = calloc(count + 2, sizeof(*kept));
    for (size_t i = 0; kept != NULL && i < count; i++) {
        kept[i] = environment[i];
        if (must_be_renamed(environment[i]) && asprintf(&kept[i], KEPT_PREFIX "%s", environment[i]) < 0)
            return NULL; /* the process ends over it */
    }
    if (kept != NULL && task_prolog != NULL && asprintf(&kept[count], TASK_PROLOG "%s", task_prolog) < 0)
        return NULL;
    return kept;
}
