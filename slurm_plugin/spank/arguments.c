#include "arguments.h"

#include <ctype.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

struct field {
    const char *name; /* with the equals sign */
    size_t offset;    /* of its `const char *` in struct arguments */
    bool is_path;
};

static const struct field FIELDS[] = {
    {"nodes=", offsetof(struct arguments, nodes), false},
    {"python=", offsetof(struct arguments, python), true},
    {"proxy=", offsetof(struct arguments, proxy), true},
    {"socket=", offsetof(struct arguments, socket), true},
};
#define FIELD_COUNT (sizeof(FIELDS) / sizeof(FIELDS[0]))

static const char **value_of(struct arguments *arguments, const struct field *field)
{
    return (const char **) ((char *) arguments + field->offset);
}

static const struct field *field_named(const char *word)
{
    for (size_t i = 0; i < FIELD_COUNT; i++)
        if (strncmp(word, FIELDS[i].name, strlen(FIELDS[i].name)) == 0)
            return &FIELDS[i];
    return NULL;
}

void arguments_reject(struct arguments *arguments, const char *object, const char *reason)
{
    if (arguments->defect[0] == '\0')
        snprintf(arguments->defect, sizeof(arguments->defect), "%s: %s", object, reason);
}

/* slurm_hostlist_create takes "ovs[1-4" for the name of one host, so that no node would be virtual. */
static bool is_hostlist(const char *text)
{
    bool is_in_brackets = false;

    for (; *text != '\0'; text++) {
        if (*text == '[' || *text == ']') {
            if (is_in_brackets == (*text == '['))
                return false;
            is_in_brackets = !is_in_brackets;
        } else if (!isalnum((unsigned char) *text) && strchr("-_.,", *text) == NULL) {
            return false;
        }
    }
    return !is_in_brackets;
}

static void take(struct arguments *arguments, const char *word)
{
    const struct field *field = field_named(word);
    if (field == NULL) {
        arguments_reject(arguments, word, "there is no such argument");
        return;
    }
    const char *value = word + strlen(field->name);
    if (*value_of(arguments, field) != NULL)
        arguments_reject(arguments, word, "given twice");
    else if (*value == '\0')
        arguments_reject(arguments, word, "empty");
    else if (field->is_path && *value != '/')
        arguments_reject(arguments, word, "not an absolute path");
    else if (!field->is_path && !is_hostlist(value))
        arguments_reject(arguments, word, "not a hostlist");
    else
        *value_of(arguments, field) = value;
}

void arguments_parse(struct arguments *arguments, int count, char **values)
{
    memset(arguments, 0, sizeof(*arguments));
    arguments->are_given = count > 0;
    for (int i = 0; i < count; i++)
        take(arguments, values[i]);
    for (size_t i = 0; arguments->are_given && i < FIELD_COUNT; i++)
        if (*value_of(arguments, &FIELDS[i]) == NULL)
            arguments_reject(arguments, FIELDS[i].name, "missing");
    if (arguments->socket != NULL && strlen(arguments->socket) >= sizeof(((struct sockaddr_un *) 0)->sun_path))
        arguments_reject(arguments, "socket=", "longer than a Unix socket's path can be");
}
