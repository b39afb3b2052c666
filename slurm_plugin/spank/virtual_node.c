#include "virtual_node.h"

#include <errno.h>
#include <signal.h>
#include <slurm/slurm.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "arguments.h"
#include "kept_environment.h"

#define NODE_NAME_SIZE 256

static struct {
    struct arguments arguments;
    bool is_virtual;
    pid_t slurmstepd_pid;
} context;

static bool exists(const char *path)
{
    return path != NULL && access(path, F_OK) == 0;
}

/* Whether this host serves virtual nodes, asked only when plugstack.conf does not tell which nodes are virtual. Taking a
 * whole cluster's nodes for virtual would stop it, taking a virtual one for real would run users' programs here. */
static bool is_overspill_host(const struct arguments *arguments)
{
    return exists(arguments->proxy) || exists(arguments->socket);
}

static bool is_virtual_node(struct arguments *arguments, const char *node_name)
{
    bool is_listed = false;

    if (!arguments->are_given)
        return false;
    if (arguments->nodes == NULL) /* its defect is noted */
        return is_overspill_host(arguments);
    if (node_name == NULL || *node_name == '\0') {
        arguments_reject(arguments, "SLURMD_NODENAME", "slurmstepd does not tell its node's name");
        return is_overspill_host(arguments);
    }
    __auto_type nodes = slurm_hostlist_create(arguments->nodes); /* its type is another since Slurm 23.11 */
    if (nodes == NULL) {
        arguments_reject(arguments, arguments->nodes, "not a hostlist");
        return is_overspill_host(arguments);
    }
    is_listed = slurm_hostlist_find(nodes, node_name) >= 0;
    slurm_hostlist_destroy(nodes);
    return is_listed;
}

/* Users run the proxy, so what counts is what everybody may do; slurmstepd asks as root. */
static void check_program(struct arguments *arguments, const char *path, mode_t needed)
{
    struct stat status;

    if (path == NULL)
        return;
    if (stat(path, &status) < 0)
        arguments_reject(arguments, path, strerror(errno));
    else if (!S_ISREG(status.st_mode) || (status.st_mode & needed) != needed)
        arguments_reject(arguments, path, "not a file that every user may run");
}

static bool is_batch_step(spank_t spank)
{
    uint32_t step_id = 0;

    return spank_get_item(spank, S_JOB_STEPID, &step_id) == ESPANK_SUCCESS && step_id == SLURM_BATCH_SCRIPT;
}

void virtual_node_check_arguments(int count, char **values)
{
    struct arguments arguments;

    arguments_parse(&arguments, count, values);
    if (arguments.defect[0] != '\0')
        slurm_error("overspill: configure: plugstack.conf: %s", arguments.defect);
}

int virtual_node_init(spank_t spank, int count, char **values)
{
    struct arguments *arguments = &context.arguments;

    arguments_parse(arguments, count, values);
    context.slurmstepd_pid = getpid();
    /* slurmstepd's own environment: the job's holds the name of the node that the user called sbatch on, if any. */
    context.is_virtual = is_virtual_node(arguments, getenv("SLURMD_NODENAME"));
    if (!context.is_virtual)
        return 0;
    check_program(arguments, arguments->python, S_IROTH | S_IXOTH);
    check_program(arguments, arguments->proxy, S_IROTH);
    if (arguments->defect[0] == '\0' || !is_batch_step(spank))
        return 0;
    slurm_error("overspill: configure: plugstack.conf: %s", arguments->defect);
    return -1;
}

/* One line to whoever waits for the step: srun's user, from the first task only. */
static void __attribute__((noreturn)) refuse_step(spank_t spank)
{
    int task_id = 0;

    if (spank_get_item(spank, S_TASK_ID, &task_id) != ESPANK_SUCCESS || task_id == 0)
        slurm_spank_log("overspill: refuse: step on %s: this node stands for a remote site and runs sbatch jobs only",
                        getenv("SLURMD_NODENAME") ? getenv("SLURMD_NODENAME") : "a virtual node");
    _exit(EXIT_FAILURE);
}

/* As slurmstepd does with a script that cannot be executed: a line on the job's stderr, errno as exit code. */
static void __attribute__((noreturn)) fail_job(const char *object, const char *reason, int exit_code)
{
    slurm_error("overspill: hand over: %s: %s", object, reason);
    _exit(exit_code);
}

/* The kernel's promise that no proxy outlives its slurmstepd: whoever took over from a dead slurmstepd (Slurm requeues its
 * job) would otherwise meet a second proxy. A slurmstepd that died before the promise was made shows as a foreign parent;
 * 0 is a parent in another PID namespace. */
static void die_with_slurmstepd(void)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        fail_job("PR_SET_PDEATHSIG", strerror(errno), errno);
    pid_t parent = getppid();
    if (parent != 0 && parent != context.slurmstepd_pid)
        kill(getpid(), SIGKILL);
}

static void __attribute__((noreturn)) become_proxy(spank_t spank)
{
    const struct arguments *arguments = &context.arguments;
    const char *const opening[] = {arguments->python, "-I", "-S", arguments->proxy, arguments->socket};
    const size_t opening_count = sizeof(opening) / sizeof(opening[0]);
    int argc = 0;
    char **argv = NULL;
    char **environment = NULL;

    if (spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1)
        fail_job("argv", "slurmstepd does not tell what to run", EXIT_FAILURE);
    if (spank_get_item(spank, S_JOB_ENV, &environment) != ESPANK_SUCCESS)
        fail_job("environment", "slurmstepd does not tell it", EXIT_FAILURE);
    die_with_slurmstepd();

    const char **proxy_argv = calloc(opening_count + (size_t) argc + 1, sizeof(*proxy_argv));
    char **proxy_environment = kept_environment(environment);
    if (proxy_argv == NULL || proxy_environment == NULL)
        fail_job("argv and environment", strerror(ENOMEM), ENOMEM);
    memcpy(proxy_argv, opening, sizeof(opening));
    memcpy(proxy_argv + opening_count, argv, (size_t) argc * sizeof(*argv));

    execve(arguments->python, (char *const *) proxy_argv, proxy_environment);
    fail_job(arguments->python, strerror(errno), errno);
}

int virtual_node_task_init(spank_t spank)
{
    if (!context.is_virtual)
        return 0;
    if (!is_batch_step(spank))
        refuse_step(spank);
    if (context.arguments.defect[0] != '\0')
        fail_job("plugstack.conf", context.arguments.defect, EXIT_FAILURE);
    become_proxy(spank);
}
