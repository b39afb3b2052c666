#include "option.h"

#include <stdbool.h>
#include <string.h>

/* As sidecar.toml has them; auto, never and always are like them. */
static bool is_site_name(const char *text)
{
    static const char FIRST[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    static const char ANY[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";

    return strspn(text, FIRST) > 0 && text[strspn(text, ANY)] == '\0';
}

/* job_submit.lua reads the choice from the job's SPANK environment, and the router knows the sites; here only what can
 * be none of them is found out. */
static int check_choice(int val, const char *choice, int remote)
{
    (void) val;
    if (remote) /* a job that slurmctld has taken never fails on a node for what a newer sbatch may have let pass */
        return 0;
    if (choice != NULL && is_site_name(choice))
        return 0;
    slurm_error("overspill: read: --overspill=%s: write auto, never, always or a site's name", choice ? choice : "");
    return -1;
}

/* As agent.toml has them; which there are, only the sites know. */
static int check_image(int val, const char *image, int remote)
{
    static const char ANY[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";

    (void) val;
    if (remote || (image != NULL && image[0] != '\0' && image[strspn(image, ANY)] == '\0'))
        return 0;
    slurm_error("overspill: read: --overspill-image=%s: write the name of an image that a site offers",
                image ? image : "");
    return -1;
}

int option_register(spank_t spank)
{
    struct spank_option image = {
        .name = "overspill-image",
        .arginfo = "<image>",
        .usage = "run in this image if it is at a remote site; only sites that offer it are asked",
        .has_arg = 1,
        .cb = check_image,
    };
    struct spank_option option = {
        .name = "overspill",
        .arginfo = "auto|never|always|<site>",
        .usage = "run at a remote site if the wait here would be long (auto, the default), never, always, or at this site",
        .has_arg = 1,
        .cb = check_choice,
    };

    if (spank_option_register(spank, &option) != ESPANK_SUCCESS)
        return -1;
    return spank_option_register(spank, &image) == ESPANK_SUCCESS ? 0 : -1;
}
