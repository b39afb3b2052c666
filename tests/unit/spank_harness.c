/* A stand-in for the Slurm program that loads the plugin: it calls the plugin's hooks in Slurm's order and writes down,
 * one line each, what the plugin asks of Slurm and of the kernel.
 *
 *   spank_harness KEY=VALUE… -- PLUGSTACK ARGUMENTS…
 *
 * context=  slurmd | local | allocator | remote | job_script
 * step=     the step's id; without it spank_get_item does not know
 * task=, job=, array=, array_task=   numbers of the task on its node, the job, its array and the array task; likewise
 * argv=, environment=   files of NUL-terminated strings: the job's; without them likewise
 * ppid=     what getppid answers in the task: "slurmstepd" (default) or a number
 * task_prolog=   slurm.conf's TaskProlog; without it there is none
 * choose=, image=   values given to --overspill and --overspill-image, "-" for none at all
 * execve=, prctl=, calloc=, asprintf=, mmap=, requeue=, requeue_task=, update=   the errno to fail with
 *
 * The task's hook runs in a child, as in slurmstepd. execve is only written down; it never returns if it succeeds. */
#define _GNU_SOURCE /* vasprintf */
#include <errno.h>
#include <signal.h>
#include <slurm/slurm.h>
#include <slurm/spank.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern int slurm_spank_init(spank_t spank, int count, char **values);
extern int slurm_spank_task_init(spank_t spank, int count, char **values);
extern int slurm_spank_exit(spank_t spank, int count, char **values);
void *__real_calloc(size_t count, size_t size);
void *__real_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);

slurm_conf_t slurm_conf; /* slurmstepd's configuration */

static char **settings;
static struct spank_option registered[2];
static size_t registered_count;
static pid_t slurmstepd_pid;

static const char *setting(const char *key)
{
    size_t length = strlen(key);

    for (char **each = settings; *each != NULL && strcmp(*each, "--") != 0; each++)
        if (strncmp(*each, key, length) == 0 && (*each)[length] == '=')
            return *each + length + 1;
    return NULL;
}

static bool fails(const char *function)
{
    const char *error = setting(function);

    if (error != NULL)
        errno = atoi(error);
    return error != NULL;
}

static void print_hex(const char *event, const char *text)
{
    printf("%s ", event);
    for (; *text != '\0'; text++)
        printf("%02x", (unsigned char) *text);
    putchar('\n');
}

/* The strings of a file of NUL-terminated ones. They live until the harness ends. */
static char **strings_of(const char *path, int *count)
{
    char **strings = NULL;
    char *line = NULL;
    size_t room = 0;
    FILE *file = fopen(path, "r");

    *count = 0;
    while (file != NULL && getdelim(&line, &room, '\0', file) > 0) {
        strings = realloc(strings, sizeof(*strings) * (size_t) (*count + 2));
        strings[(*count)++] = strdup(line);
        strings[*count] = NULL;
    }
    if (file == NULL)
        abort();
    free(line);
    fclose(file);
    return strings;
}

/* Slurm's side of spank.h. */

spank_context_t spank_context(void)
{
    static const struct {
        const char *name;
        spank_context_t context;
    } CONTEXTS[] = {{"slurmd", S_CTX_SLURMD},
                    {"local", S_CTX_LOCAL},
                    {"allocator", S_CTX_ALLOCATOR},
                    {"remote", S_CTX_REMOTE},
                    {"job_script", S_CTX_JOB_SCRIPT}};

    for (size_t i = 0; i < sizeof(CONTEXTS) / sizeof(CONTEXTS[0]); i++)
        if (strcmp(setting("context"), CONTEXTS[i].name) == 0)
            return CONTEXTS[i].context;
    return S_CTX_ERROR;
}

spank_err_t spank_get_item(spank_t spank, spank_item_t item, ...)
{
    static const struct {
        spank_item_t item;
        const char *key;
    } NUMBERS[] = {{S_JOB_STEPID, "step"},
                   {S_TASK_ID, "task"},
                   {S_JOB_ID, "job"},
                   {S_JOB_ARRAY_ID, "array"},
                   {S_JOB_ARRAY_TASK_ID, "array_task"}};
    spank_err_t result = ESPANK_NOT_AVAIL;
    va_list arguments;
    int count = 0;

    (void) spank;
    va_start(arguments, item);
    for (size_t i = 0; i < sizeof(NUMBERS) / sizeof(NUMBERS[0]); i++) {
        if (item == NUMBERS[i].item && setting(NUMBERS[i].key) != NULL) {
            *va_arg(arguments, uint32_t *) = (uint32_t) strtoul(setting(NUMBERS[i].key), NULL, 0);
            result = ESPANK_SUCCESS;
        }
    }
    if (item == S_JOB_ARGV && setting("argv") != NULL) {
        int *argc = va_arg(arguments, int *);
        *va_arg(arguments, char ***) = strings_of(setting("argv"), argc);
        result = ESPANK_SUCCESS;
    }
    if (item == S_JOB_ENV && setting("environment") != NULL) {
        *va_arg(arguments, char ***) = strings_of(setting("environment"), &count);
        result = ESPANK_SUCCESS;
    }
    va_end(arguments);
    return result;
}

spank_err_t spank_option_register(spank_t spank, struct spank_option *option)
{
    (void) spank;
    if (registered_count == sizeof registered / sizeof *registered)
        return ESPANK_NOSPACE;
    registered[registered_count++] = *option;
    printf("register %s %s %d\n", option->name, option->arginfo, option->has_arg);
    return ESPANK_SUCCESS;
}

/* Does what sbatch does with the value of an option, if the test gives one. */
static void choose(const char *name, const char *option)
{
    const char *value = setting(name);

    for (size_t i = 0; value != NULL && i < registered_count; i++) {
        const char *text = strcmp(value, "-") == 0 ? NULL : value;
        if (strcmp(registered[i].name, option) == 0)
            printf("%s %d\n", name, registered[i].cb(registered[i].val, text, spank_context() == S_CTX_REMOTE));
    }
}

static void say(const char *event, const char *format, va_list arguments)
{
    printf("%s ", event);
    vprintf(format, arguments);
    putchar('\n');
}

#define SAYS(function, event)                  \
    void function(const char *format, ...)     \
    {                                          \
        va_list arguments;                     \
        va_start(arguments, format);           \
        say(event, format, arguments);         \
        va_end(arguments);                     \
    }
SAYS(slurm_error, "error")
SAYS(slurm_info, "info")
SAYS(slurm_spank_log, "log")

/* slurm.h: hostlists of plain names and of one bracketed range of single digits, such as c1,ovs[1-4]. */
hostlist_t slurm_hostlist_create(const char *text)
{
    const char *dash = strchr(text, '-');

    return dash != NULL && dash[-1] > dash[1] ? NULL : (hostlist_t) strdup(text);
}

static bool matches(const char *pattern, const char *name)
{
    const char *bracket = strchr(pattern, '[');

    if (bracket == NULL)
        return strcmp(pattern, name) == 0;
    size_t length = (size_t) (bracket - pattern);
    return strncmp(pattern, name, length) == 0 && name[length] >= bracket[1] && name[length] <= bracket[3] &&
           name[length + 1] == '\0';
}

int slurm_hostlist_find(hostlist_t hosts, const char *name)
{
    char *rest = (char *) hosts;
    int position = 0;

    for (char *each = strsep(&rest, ","); each != NULL; each = strsep(&rest, ","), position++)
        if (matches(each, name))
            return position;
    return -1;
}

void slurm_hostlist_destroy(hostlist_t hosts)
{
    free(hosts);
}

void slurm_init_update_node_msg(update_node_msg_t *update)
{
    memset(update, 0, sizeof(*update));
}

int slurm_update_node(update_node_msg_t *update)
{
    if (fails("update"))
        return SLURM_ERROR;
    printf("drain %s %s\n", update->node_names, update->node_state == NODE_STATE_DRAIN ? update->reason : "?");
    return SLURM_SUCCESS;
}

int slurm_requeue2(char *job, uint32_t flags, job_array_resp_msg_t **answer)
{
    static uint32_t errors[] = {SLURM_SUCCESS};
    static job_array_resp_msg_t tasks = {.job_array_count = 1, .error_code = errors};

    printf("requeue %s %s\n", job, flags == JOB_RUNNING ? "running" : "?");
    if (strchr(job, '_') != NULL)
        *answer = &tasks;
    if (fails("requeue"))
        return SLURM_ERROR;
    errors[0] = fails("requeue_task") ? ESLURM_DISABLED : SLURM_SUCCESS;
    return SLURM_SUCCESS;
}

void slurm_free_job_array_resp(job_array_resp_msg_t *answer)
{
    printf("free %u\n", answer->job_array_count);
}

char *slurm_strerror(int error)
{
    return strerror(error);
}

/* The kernel's side, by the linker's --wrap. */

int __wrap_execve(const char *path, char *const argv[], char *const environment[])
{
    sigset_t blocked;

    sigprocmask(SIG_SETMASK, NULL, &blocked);
    for (int number = 1; number <= SIGSYS; number++)
        if (sigismember(&blocked, number))
            printf("blocked %d\n", number);
    print_hex("execve", path);
    for (; *argv != NULL; argv++)
        print_hex("argv", *argv);
    for (; *environment != NULL; environment++)
        print_hex("environment", *environment);
    if (fails("execve"))
        return -1;
    _exit(0);
}

int __wrap_prctl(int option, unsigned long value)
{
    printf("prctl %d %lu\n", option, value);
    return fails("prctl") ? -1 : 0;
}

pid_t __wrap_getppid(void)
{
    const char *ppid = setting("ppid");

    return ppid != NULL ? (pid_t) atoi(ppid) : slurmstepd_pid;
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails("calloc") ? NULL : __real_calloc(count, size);
}

int __wrap_asprintf(char **text, const char *format, ...)
{
    va_list arguments;

    if (fails("asprintf"))
        return -1;
    va_start(arguments, format);
    int length = vasprintf(text, format, arguments);
    va_end(arguments);
    return length;
}

void *__wrap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    return fails("mmap") ? (void *) -1 : __real_mmap(address, length, protection, flags, fd, offset);
}

static void run_task(spank_t spank, int count, char **values)
{
    int status = 0;
    pid_t task = fork();

    if (task == 0) {
        printf("task_init %d\n", slurm_spank_task_init(spank, count, values));
        puts("payload runs");
        _exit(0);
    }
    waitpid(task, &status, 0);
    if (WIFSIGNALED(status))
        printf("task killed by %d\n", WTERMSIG(status));
    else
        printf("task exited %d\n", WEXITSTATUS(status));
}

int main(int argc, char **argv)
{
    int first = 1;
    spank_t spank = NULL;

    setvbuf(stdout, NULL, _IONBF, 0);
    settings = argv + 1;
    slurmstepd_pid = getpid();
    slurm_conf.task_prolog = (char *) setting("task_prolog");
    while (first < argc && strcmp(argv[first], "--") != 0)
        first++;
    first = first < argc ? first + 1 : argc;
    printf("init %d\n", slurm_spank_init(spank, argc - first, argv + first));
    choose("choose", "overspill");
    choose("image", "overspill-image");
    if (spank_context() == S_CTX_REMOTE)
        run_task(spank, argc - first, argv + first);
    printf("exit %d\n", slurm_spank_exit(spank, argc - first, argv + first));
    return 0;
}
