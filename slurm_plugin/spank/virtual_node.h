/* What happens in slurmstepd: on a virtual node the batch script gives way to the proxy, and nothing else runs. */
#ifndef OVERSPILL_VIRTUAL_NODE_H
#define OVERSPILL_VIRTUAL_NODE_H

#include <slurm/spank.h>

/* slurmd's start: tell its log what is wrong with plugstack.conf. */
void virtual_node_check_arguments(int count, char **values);

/* slurm_spank_init: as root in slurmstepd, before the job's output files are opened. Finds out where it is. */
void virtual_node_init(spank_t spank, int count, char **values);

/* slurm_spank_task_init: as the user in the task's own process, right before slurmstepd would exec the task.
 *
 * Returns on real nodes. On virtual ones it never does: it becomes the proxy or it exits. To return an error would not
 * be enough: Slurm ignores it where plugstack.conf says `optional`, and would then run the user's program. */
void virtual_node_task_init(spank_t spank);

/* slurm_spank_exit: as root in slurmstepd, after the task and before slurmctld hears how it ended. Drains the node and
 * requeues the job if the node was not able to hand it over: an admin's mistake costs no user a job. */
void virtual_node_exit(spank_t spank);

#endif
