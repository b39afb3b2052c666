/* The job's environment, made harmless for the proxy's interpreter and still whole. */
#ifndef OVERSPILL_KEPT_ENVIRONMENT_H
#define OVERSPILL_KEPT_ENVIRONMENT_H

/* What stands before a renamed variable's name. The proxy takes it off once in what it sends to the remote site. */
#define KEPT_PREFIX "OVERSPILL_KEPT_"

/* The entry that tells the proxy of the site's TaskProlog; the proxy does not pass it on. */
#define TASK_PROLOG "OVERSPILL_TASK_PROLOG="

/* Return a copy of `environment` (NULL-terminated; NULL is an empty one) in which the names that would bend an
 * interpreter carry KEPT_PREFIX, in the same order, and at the end the path of the TaskProlog unless that is NULL.
 * Other entries are shared with the original. NULL without memory. */
char **kept_environment(char **environment, const char *task_prolog);

#endif
