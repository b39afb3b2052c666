#include "option.h"

#include <string.h>

/* job_submit.lua reads the choice from the job's SPANK environment; here it is only checked. */
static int check_choice(int val, const char *choice, int remote)
{
    static const char *const CHOICES[] = {"auto", "never", "always"};

    (void) val;
    if (remote) /* a job that slurmctld has taken never fails on a node for what a newer sbatch may have let pass */
        return 0;
    for (size_t i = 0; choice != NULL && i < sizeof(CHOICES) / sizeof(CHOICES[0]); i++)
        if (strcmp(choice, CHOICES[i]) == 0)
            return 0;
    slurm_error("overspill: read: --overspill=%s: only auto, never and always can be chosen", choice ? choice : "");
    return -1;
}

int option_register(spank_t spank)
{
    struct spank_option option = {
        .name = "overspill",
        .arginfo = "auto|never|always",
        .usage = "run at a remote site if the wait here would be long (auto, the default), never, or always",
        .has_arg = 1,
        .cb = check_choice,
    };

    return spank_option_register(spank, &option) == ESPANK_SUCCESS ? 0 : -1;
}
