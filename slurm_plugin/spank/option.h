/* --overspill=auto|never|always|<site> of sbatch, srun and salloc. */
#ifndef OVERSPILL_OPTION_H
#define OVERSPILL_OPTION_H

#include <slurm/spank.h>

/* Offer the option. To be called in slurm_spank_init of every context that knows options: where the command line is
 * read (sbatch, srun, salloc) and where Slurm carries the option to (slurmstepd). */
int option_register(spank_t spank);

#endif
