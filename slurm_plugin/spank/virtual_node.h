/* What happens in slurmstepd: on a virtual node the batch script gives way to the proxy, and nothing else runs. */
#ifndef OVERSPILL_VIRTUAL_NODE_H
#define OVERSPILL_VIRTUAL_NODE_H

#include <slurm/spank.h>

/* slurmd's start: tell its log what is wrong with plugstack.conf. Never fails: the node is refused step by step. */
void virtual_node_check_arguments(int count, char **values);

/* slurm_spank_init, as root in slurmstepd, before the job's output files are opened.
 *
 * Returns -1 for a batch step that cannot be handed over: Slurm then drains the node ("batch job complete failure")
 * and requeues the job, which is what an admin's mistake should cost. */
int virtual_node_init(spank_t spank, int count, char **values);

/* slurm_spank_task_init, as the user in the task's own process, right before slurmstepd would exec the task.
 *
 * Returns 0 on real nodes. On virtual ones it never returns: it becomes the proxy or it exits. To return an error would
 * not be enough, because Slurm ignores it where plugstack.conf says `optional`, and would then run the user's program. */
int virtual_node_task_init(spank_t spank);

#endif
