/* The job's environment, made harmless for the proxy's interpreter and still whole. */
#ifndef OVERSPILL_KEPT_ENVIRONMENT_H
#define OVERSPILL_KEPT_ENVIRONMENT_H

/* What stands before a renamed variable's name. The proxy takes it off once in what it sends to the remote site. */
#define KEPT_PREFIX "OVERSPILL_KEPT_"

/* Return a copy of `environment` (NULL-terminated; NULL is an empty one) in which the names that would bend an
 * interpreter carry KEPT_PREFIX, in the same order. Other entries are shared with the original. NULL without memory. */
char **kept_environment(char **environment);

#endif
