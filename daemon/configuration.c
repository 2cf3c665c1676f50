/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading hld.conf. inih splits the lines; it is given a reader of ours, which knows the line's
 * number, refuses lines too long for inih's buffer (it would split them silently), and sees section
 * headers, which inih does not report. A setting given twice is an error: whoever reads the file
 * would not know which one counts.
 */
#include "config.h"

#include "daemon/configuration.h"

#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "daemon/configuration_keys.h"

struct reading {
    struct configuration *config;
    FILE *file;
    const char *path;
    int line;
    unsigned int problems;
    bool section_bad; /* settings of an unknown section are not reported one by one */
    bool *seen;
    configuration_report report;
    void *opaque;
};

static void problem(struct reading *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void problem(struct reading *r, const char *fmt, ...)
{
    char text[HL_ERROR_TEXT_MAX];
    char line[HL_ERROR_TEXT_MAX + PATH_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    snprintf(line, sizeof(line), "%s:%d: %s", r->path, r->line, text);
    r->problems++;
    r->report(r->opaque, line);
}

static bool section_known(const char *name, size_t len)
{
    for (size_t i = 0; i < configuration_key_count; i++) {
        const char *section = configuration_keys[i].section;

        if (strlen(section) == len && memcmp(section, name, len) == 0)
            return true;
    }
    return false;
}

/* Whether nothing but a comment is left of a line. */
static bool is_over(const char *rest)
{
    rest += strspn(rest, " \t\r\n\f\v");
    return *rest == '\0' || *rest == ';' || *rest == '#';
}

static void check_section(struct reading *r, const char *header)
{
    const char *name = header + 1;
    const char *end = strchr(name, ']');

    r->section_bad = true;
    if (!end)
        problem(r, "a section header ends with ']'");
    else if (!section_known(name, (size_t)(end - name)))
        problem(r, "unknown section [%.*s]; there are [daemon], [engine], [defaults] and [limits]",
                (int)(end - name), name);
    else if (!is_over(end + 1))
        problem(r, "a section header stands alone in its line");
    else
        r->section_bad = false;
}

/* inih's reader: a line into str, without leading blanks, so that none continues another. */
static char *read_line(char *str, int num, void *stream)
{
    struct reading *r = stream;
    size_t blanks;

    if (!fgets(str, num, r->file))
        return NULL;
    r->line++;
    if (!strchr(str, '\n') && !feof(r->file)) {
        int c;

        problem(r, "the line is too long: at most %d bytes", num - 2);
        do {
            c = fgetc(r->file);
        } while (c != '\n' && c != EOF);
        str[0] = '\0';
        return str;
    }
    if (r->line == 1 && strncmp(str, "\xef\xbb\xbf", 3) == 0) /* an editor's byte order mark */
        memmove(str, str + 3, strlen(str + 3) + 1);
    blanks = strspn(str, " \t\r\n\f\v");
    memmove(str, str + blanks, strlen(str + blanks) + 1);
    if (str[0] == '[') {
        check_section(r, str);
    } else if (str[0] != '\0' && str[0] != ';' && str[0] != '#' && !strpbrk(str, "=:")) {
        problem(r, "neither a [section], nor a setting (name = value), nor a comment (#)");
        str[0] = '\0';
    }
    return str;
}

static int take_setting(void *opaque, const char *section, const char *name, const char *value)
{
    struct reading *r = opaque;
    struct hl_error err = HL_ERROR_INIT;

    if (section[0] == '\0' && !r->section_bad) {
        problem(r, "'%s' stands before any section", name);
        return 1;
    }
    if (r->section_bad)
        return 1;
    for (size_t i = 0; i < configuration_key_count; i++) {
        const struct configuration_key *key = &configuration_keys[i];

        if (strcmp(key->section, section) != 0 || strcmp(key->name, name) != 0)
            continue;
        if (r->seen[i])
            problem(r, "%s is set twice", name);
        else if (configuration_key_set(key, r->config, value, &err) < 0)
            problem(r, "%s", err.text);
        r->seen[i] = true;
        return 1;
    }
    problem(r, "[%s] has no setting '%s' (see hld.conf(5))", section, name);
    return 1;
}

static int open_file(const char *path, FILE **file)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
    *file = fdopen(fd, "r");
    if (!*file)
        return -errno;
    hl_steal_fd(&fd);
    return 0;
}

int configuration_load(struct configuration *config, const char *path, bool optional,
                       configuration_report report, void *opaque)
{
    _cleanup_free_ bool *seen = calloc(configuration_key_count, sizeof(*seen));
    struct reading r = {
        .config = config, .path = path, .seen = seen, .report = report, .opaque = opaque};
    int err;

    if (!seen)
        return -ENOMEM;
    err = open_file(path, &r.file);
    if (err == -ENOENT && optional)
        return 0;
    if (err < 0) {
        char line[PATH_MAX + 256];

        snprintf(line, sizeof(line), "%s: %s", path, strerror(-err));
        report(opaque, line);
        return err;
    }
    err = ini_parse_stream(read_line, &r, take_setting, &r);
    if (ferror(r.file))
        problem(&r, "the file cannot be read to its end");
    else if (err != 0 && r.problems == 0) /* what inih alone dislikes */
        r.line = err > 0 ? err : 0, problem(&r, "not a line of the form name = value");
    fclose(r.file);
    return r.problems > 0 ? -EINVAL : 0;
}

int configuration_set(struct configuration *config, const char *section, const char *name,
                      const char *value, struct hl_error *err)
{
    for (size_t i = 0; i < configuration_key_count; i++) {
        const struct configuration_key *key = &configuration_keys[i];

        if (strcmp(key->section, section) == 0 && strcmp(key->name, name) == 0)
            return configuration_key_set(key, config, value, err);
    }
    return hl_error_set(err, -EINVAL, "no setting '%s' in [%s]", name, section);
}

struct order {
    const char *smaller, *larger;
    bool wrong;
};

int configuration_check(const struct configuration *c, const char *path,
                        configuration_report report, void *opaque)
{
    const struct configuration_limits *d = &c->defaults, *m = &c->maxima;
    const struct order orders[] = {
        {"[defaults] memory", "[limits] memory", d->memory > m->memory},
        {"[defaults] deadline", "[limits] deadline", d->deadline_ns > m->deadline_ns},
        {"[defaults] min_instances", "[limits] min_instances", d->min_instances > m->min_instances},
        {"[defaults] max_instances", "[limits] max_instances", d->max_instances > m->max_instances},
        {"[defaults] max_queue", "[limits] max_queue", d->max_queue > m->max_queue},
        {"[defaults] io_size", "[limits] io_size", d->io_size > m->io_size},
        {"[defaults] min_instances", "[defaults] max_instances",
         d->min_instances > d->max_instances},
        {"[defaults] io_size", "[defaults] memory", d->io_size > d->memory},
        {"[defaults] memory", "[engine] memory_budget", d->memory > c->memory_budget},
        {"[limits] image_size", "[daemon] max_disk", c->max_image_size > c->max_disk},
    };
    unsigned int problems = 0;
    char line[PATH_MAX + 256];

    for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
        if (!orders[i].wrong)
            continue;
        snprintf(line, sizeof(line), "%s: %s must not be larger than %s", path, orders[i].smaller,
                 orders[i].larger);
        report(opaque, line);
        problems++;
    }
    return problems > 0 ? -EINVAL : 0;
}

size_t configuration_apply(struct configuration *current, const struct configuration *next,
                           configuration_report report, void *opaque)
{
    size_t restarts = 0;

    for (size_t i = 0; i < configuration_key_count; i++) {
        const struct configuration_key *key = &configuration_keys[i];
        char *to = (char *)current + key->offset;
        const char *from = (const char *)next + key->offset;
        char line[256];

        if (memcmp(to, from, key->size) == 0)
            continue;
        if (!key->restart) {
            memcpy(to, from, key->size);
            continue;
        }
        snprintf(line, sizeof(line), "[%s] %s changed; it takes effect when hld is started again",
                 key->section, key->name);
        report(opaque, line);
        restarts++;
    }
    return restarts;
}
