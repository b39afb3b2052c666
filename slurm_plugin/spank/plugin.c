/* SPANK's way into Overspill: which part answers in which context. */
#include <slurm/slurm.h>
#include <slurm/spank.h>

#include "option.h"
#include "virtual_node.h"

#pragma GCC visibility push(default)

SPANK_PLUGIN(overspill, 1)

/* An error in slurmstepd is never returned to SPANK: Slurm takes a batch job whose slurm_spank_init failed for
 * COMPLETED with exit code 0 (seen on 22.05.8), and ignores whatever an `optional` plugin returns. */
int slurm_spank_init(spank_t spank, int count, char **values)
{
    switch (spank_context()) {
    case S_CTX_LOCAL:
    case S_CTX_ALLOCATOR:
        return option_register(spank);
    case S_CTX_REMOTE:
        option_register(spank);
        virtual_node_init(spank, count, values);
        return 0;
    case S_CTX_SLURMD:
        virtual_node_check_arguments(count, values);
        return 0;
    default:
        return 0;
    }
}

int slurm_spank_task_init(spank_t spank, int count, char **values)
{
    (void) count;
    (void) values;
    virtual_node_task_init(spank);
    return 0;
}

int slurm_spank_exit(spank_t spank, int count, char **values)
{
    (void) count;
    (void) values;
    if (spank_context() == S_CTX_REMOTE)
        virtual_node_exit(spank);
    return 0;
}

#pragma GCC visibility pop
