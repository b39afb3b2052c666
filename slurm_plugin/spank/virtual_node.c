#include "virtual_node.h"

#include <errno.h>
#include <signal.h>
#include <slurm/slurm.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "arguments.h"
#include "kept_environment.h"

#define NODE_NAME_SIZE 256
#define JOB_NAME_SIZE 32 /* two numbers of ten digits */

/* slurmstepd's own, as slurm.h describes it; absent where somebody else loads the plugin. */
extern slurm_conf_t slurm_conf __attribute__((weak, visibility("default")));

struct context {
    struct arguments arguments; /* its defect is also where the task leaves word for slurmstepd */
    char node_name[NODE_NAME_SIZE];
    bool is_virtual;
    bool is_batch_step;
    pid_t slurmstepd_pid;
};

/* Shared with the task's process if memory allows; else slurmstepd just does not learn why a task failed. */
static struct context private_context;
static struct context *context = &private_context;

static void share_context(void)
{
    void *shared = mmap(NULL, sizeof(*context), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared != MAP_FAILED)
        context = shared;
}

static bool exists(const char *path)
{
    return path != NULL && access(path, F_OK) == 0;
}

static bool is_listed(struct arguments *arguments, const char *node_name)
{
    __auto_type nodes = slurm_hostlist_create(arguments->nodes); /* its type is another since Slurm 23.11 */
    if (nodes == NULL) {
        arguments_reject(arguments, arguments->nodes, "not a hostlist");
        arguments->nodes = NULL;
        return false;
    }
    bool is_found = slurm_hostlist_find(nodes, node_name) >= 0;
    slurm_hostlist_destroy(nodes);
    return is_found;
}

/* Where the list of virtual nodes or this node's name is unknown, the host decides: one that holds the proxy or the
 * relay's socket serves virtual nodes, and a user's program must not run there. Any other host is none of Overspill's,
 * and to refuse its jobs would stop the cluster. */
static bool is_virtual_node(struct arguments *arguments, const char *node_name)
{
    if (!arguments->are_given)
        return false;
    if (node_name[0] == '\0')
        arguments_reject(arguments, "SLURMD_NODENAME", "slurmstepd does not tell its node's name");
    else if (arguments->nodes != NULL && is_listed(arguments, node_name))
        return true;
    else if (arguments->nodes != NULL)
        return false;
    return exists(arguments->proxy) || exists(arguments->socket);
}

void virtual_node_check_arguments(int count, char **values)
{
    struct arguments arguments;

    arguments_parse(&arguments, count, values);
    if (arguments.defect[0] != '\0')
        slurm_error("overspill: configure: plugstack.conf: %s", arguments.defect);
}

void virtual_node_init(spank_t spank, int count, char **values)
{
    /* slurmstepd's own environment: the job's may hold the name of the node that the user called sbatch on. */
    const char *node_name = getenv("SLURMD_NODENAME");
    uint32_t step_id = 0;

    share_context();
    arguments_parse(&context->arguments, count, values);
    snprintf(context->node_name, sizeof(context->node_name), "%s", node_name ? node_name : "");
    context->is_virtual = is_virtual_node(&context->arguments, context->node_name);
    context->is_batch_step =
        spank_get_item(spank, S_JOB_STEPID, &step_id) == ESPANK_SUCCESS && step_id == SLURM_BATCH_SCRIPT;
    context->slurmstepd_pid = getpid();
    if (context->is_virtual && context->arguments.defect[0] != '\0')
        slurm_error("overspill: configure: plugstack.conf: %s", context->arguments.defect);
}

/* One line to whoever waits for the step: srun's user, from the first task only. */
static void __attribute__((noreturn)) refuse_step(spank_t spank)
{
    int task_id = 0;

    if (spank_get_item(spank, S_TASK_ID, &task_id) != ESPANK_SUCCESS || task_id == 0)
        slurm_spank_log("overspill: refuse: step on %s: this node stands for a remote site and runs sbatch jobs only",
                        context->node_name);
    _exit(EXIT_FAILURE);
}

/* The node is at fault: leave word for virtual_node_exit, and not a byte in the output of a job that runs again. */
static void __attribute__((noreturn)) hand_back(const char *object, const char *reason)
{
    arguments_reject(&context->arguments, object, reason);
    _exit(EXIT_FAILURE);
}

/* The job is at fault. As slurmstepd does where it cannot execute a script: a line on stderr, errno as exit code. */
static void __attribute__((noreturn)) fail_job(const char *object, int error)
{
    slurm_error("overspill: hand over: %s: %s", object, strerror(error));
    _exit(error);
}

/* Whether execve failed for the size of the job's argv and environment, or for the user's process limit. */
static bool is_fault_of_job(int error)
{
    return error == E2BIG || error == EAGAIN || error == ENOMEM;
}

/* The kernel's promise that no proxy outlives its slurmstepd: Slurm requeues such a job, and its next proxy would meet
 * the first one. A slurmstepd that died before the promise was made shows as a foreign parent; a parent in another PID
 * namespace shows as 0. */
static void die_with_slurmstepd(void)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        hand_back("PR_SET_PDEATHSIG", strerror(errno));
    pid_t parent = getppid();
    if (parent != 0 && parent != context->slurmstepd_pid)
        kill(getpid(), SIGKILL);
}

/* Until the proxy can catch signals it must not die of one, nor print a traceback into the job's output: it unblocks
 * them itself, and what came meanwhile reaches the script. */
static void hold_signals_back(void)
{
    sigset_t all;

    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
}

/* slurmstepd would run it after this hook, in which the batch script gives way to the proxy. */
static const char *task_prolog(void)
{
    return &slurm_conf != NULL ? slurm_conf.task_prolog : NULL;
}

static void __attribute__((noreturn)) become_proxy(spank_t spank)
{
    const struct arguments *arguments = &context->arguments;
    const char *const opening[] = {arguments->python, "-I", "-S", arguments->proxy, arguments->socket};
    const size_t opening_count = sizeof(opening) / sizeof(opening[0]);
    int argc = 0;
    char **argv = NULL;
    char **environment = NULL;

    if (access(arguments->proxy, R_OK) < 0)
        hand_back(arguments->proxy, strerror(errno));
    if (spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1)
        hand_back("argv", "slurmstepd does not tell what to run");
    if (spank_get_item(spank, S_JOB_ENV, &environment) != ESPANK_SUCCESS)
        hand_back("environment", "slurmstepd does not tell it");
    die_with_slurmstepd();

    const char **proxy_argv = calloc(opening_count + (size_t) argc + 1, sizeof(*proxy_argv));
    char **proxy_environment = kept_environment(environment, task_prolog());
    if (proxy_argv == NULL || proxy_environment == NULL)
        fail_job("argv and environment", ENOMEM);
    memcpy(proxy_argv, opening, sizeof(opening));
    memcpy(proxy_argv + opening_count, argv, (size_t) argc * sizeof(*argv));

    hold_signals_back();
    execve(arguments->python, (char *const *) proxy_argv, proxy_environment);
    if (is_fault_of_job(errno))
        fail_job(arguments->python, errno);
    hand_back(arguments->python, strerror(errno));
}

void virtual_node_task_init(spank_t spank)
{
    if (!context->is_virtual)
        return;
    if (!context->is_batch_step)
        refuse_step(spank);
    if (context->arguments.defect[0] != '\0')
        _exit(EXIT_FAILURE);
    become_proxy(spank);
}

static void drain_node(const char *reason)
{
    char drain_reason[DEFECT_SIZE + 32];
    update_node_msg_t update;

    snprintf(drain_reason, sizeof(drain_reason), "overspill: cannot hand over: %s", reason);
    slurm_init_update_node_msg(&update);
    update.node_names = context->node_name;
    update.node_state = NODE_STATE_DRAIN;
    update.reason = drain_reason;
    if (slurm_update_node(&update) != SLURM_SUCCESS)
        slurm_info("overspill: drain: %s: %s", context->node_name, slurm_strerror(errno));
}

/* The job as slurm_requeue2 wants it. A job array's bare number would stand for all of its tasks. */
static bool job_name(spank_t spank, char *name, size_t size)
{
    uint32_t job_id = 0, array_job_id = 0, array_task_id = NO_VAL;

    if (spank_get_item(spank, S_JOB_ID, &job_id) != ESPANK_SUCCESS)
        return false;
    if (spank_get_item(spank, S_JOB_ARRAY_ID, &array_job_id) == ESPANK_SUCCESS && array_job_id != 0 &&
        spank_get_item(spank, S_JOB_ARRAY_TASK_ID, &array_task_id) == ESPANK_SUCCESS && array_task_id != NO_VAL)
        snprintf(name, size, "%u_%u", array_job_id, array_task_id);
    else
        snprintf(name, size, "%u", job_id);
    return true;
}

/* JOB_RUNNING asks for nothing if the job was cancelled meanwhile. */
static bool requeue_job(char *name)
{
    job_array_resp_msg_t *tasks = NULL;
    bool is_requeued = slurm_requeue2(name, JOB_RUNNING, &tasks) == SLURM_SUCCESS;

    for (uint32_t i = 0; tasks != NULL && i < tasks->job_array_count; i++)
        if (tasks->error_code[i] != SLURM_SUCCESS)
            is_requeued = false;
    if (tasks != NULL)
        slurm_free_job_array_resp(tasks);
    return is_requeued;
}

void virtual_node_exit(spank_t spank)
{
    const char *reason = context->arguments.defect;
    char name[JOB_NAME_SIZE];

    if (!context->is_virtual || !context->is_batch_step || reason[0] == '\0')
        return;
    drain_node(reason);
    /* By now slurm_error reaches the job's stderr: right for a job that ends here, wrong for one that runs again. */
    if (job_name(spank, name, sizeof(name)) && requeue_job(name))
        slurm_info("overspill: requeue: job %s: %s", name, reason);
    else
        slurm_error("overspill: hand over: %s", reason);
}
