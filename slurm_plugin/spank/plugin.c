/* SPANK's way into Overspill: which part answers in which context. */
#include <slurm/slurm.h>
#include <slurm/spank.h>

#include "option.h"
#include "virtual_node.h"

#pragma GCC visibility push(default)

SPANK_PLUGIN(overspill, 1)

int slurm_spank_init(spank_t spank, int count, char **values)
{
    switch (spank_context()) {
    case S_CTX_LOCAL:
    case S_CTX_ALLOCATOR:
        return option_register(spank);
    case S_CTX_REMOTE:
        option_register(spank);
        return virtual_node_init(spank, count, values);
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
    return virtual_node_task_init(spank);
}

#pragma GCC visibility pop
