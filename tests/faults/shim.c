/* Counts the calls that change files below a folder, writes them down, and at one of them kills or fails.

Loaded into every process of a command by LD_PRELOAD. What it does is told by environment variables:

    FAULTS_WATCH    absolute path of a folder; calls on paths outside it are passed on
    FAULTS_COUNTER  a file of 8 zero bytes, mapped by all processes: the number of calls so far
    FAULTS_TRACE    a file to which a line is appended for each call: number, process, call, path
    FAULTS_AT       number of the call at which something happens, before it is done
    FAULTS_HOW      what happens: `group` and `self` send SIGKILL to the process group or to the process;
                    `error` makes the call fail, `errors` this one and all later ones of the kind; `short` writes half
    FAULTS_ERRNO    the error, by default ENOSPC
    FAULTS_READS    1: reading counts as well

libc's own calls (fwrite, and what it opens) pass by unseen; Python, libstdc++ and Rust call what is replaced here. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITES = 1, SPACE = 2, READS = 4 };

static char watch[PATH_MAX];
static size_t watch_length;
static int trace = -1, error_number, with_reads;
static long at;
static char how[16];
static _Atomic long *counter;

/* Reads the environment; called when the library is loaded, and again by a process that was forked to run a command. */
__attribute__((visibility("default"))) void faults_configure(void) {
    const char *text = getenv("FAULTS_WATCH");
    watch_length = 0;
    if (!text) return;
    snprintf(watch, sizeof watch, "%s", text);
    text = getenv("FAULTS_COUNTER");
    if (!text) return;
    int file = syscall(SYS_openat, AT_FDCWD, text, O_RDWR | O_CLOEXEC, 0);
    if (file < 0) return;
    void *page = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    syscall(SYS_close, file);
    if (page == MAP_FAILED) return;
    counter = page;
    /* High up, so that no program closes it as one of the numbers it expects to be free. */
    if ((text = getenv("FAULTS_TRACE"))) {
        file = syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
        trace = syscall(SYS_fcntl, file, F_DUPFD_CLOEXEC, 900);
        syscall(SYS_close, file);
    }
    at = (text = getenv("FAULTS_AT")) ? atol(text) : 0;
    snprintf(how, sizeof how, "%s", (text = getenv("FAULTS_HOW")) ? text : "");
    error_number = (text = getenv("FAULTS_ERRNO")) ? atoi(text) : ENOSPC;
    with_reads = (text = getenv("FAULTS_READS")) && *text == '1';
    watch_length = strlen(watch);
}

__attribute__((constructor)) static void start(void) { faults_configure(); }

/* Temporary files of libraries are not watched. */
static int is_watched(const char *path) {
    if (strncmp(path, watch, watch_length) || (path[watch_length] != '/' && path[watch_length])) return 0;
    return strncmp(path + watch_length, "/tmp/", 5);
}

/* Makes a path absolute; returns whether it lies in the folder. */
static int find(int folder, const char *name, char *path) {
    if (!watch_length || !name) return 0;
    char base[PATH_MAX] = "";
    if (name[0] != '/') {
        char link[64];
        if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, base, sizeof base - 1);
        base[length < 0 ? 0 : length] = 0;
        strncat(base, "/", sizeof base - strlen(base) - 1);
    }
    snprintf(path, PATH_MAX, "%.2000s%.2000s", base, name);
    return is_watched(path);
}

static int find_open(int file, char *path) {
    if (!watch_length) return 0;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0 && is_watched(path);
}

/* Notes a call. Returns 0 to go on, 1 to fail with errno set, 2 to write half. */
static int meet(const char *call, const char *path, int kind) {
    if ((kind & READS) && !with_reads) return 0;
    long number = atomic_fetch_add(counter, 1) + 1;
    int saved = errno;
    if (trace >= 0) {
        char line[PATH_MAX + 100];
        int length = snprintf(line, sizeof line, "%ld\t%d\t%s\t%s\n", number, (int)getpid(), call, path + watch_length);
        syscall(SYS_write, trace, line, length);
    }
    errno = saved;
    if (!at || number < at) return 0;
    if (number > at) {
        if (strcmp(how, "errors") || !(kind & SPACE)) return 0;
        errno = error_number;
        return 1;
    }
    if (!strcmp(how, "group")) {
        syscall(SYS_kill, 0, SIGKILL);
        for (;;) pause();
    }
    if (!strcmp(how, "self")) {
        syscall(SYS_kill, getpid(), SIGKILL);
        for (;;) pause();
    }
    if (!strcmp(how, "error") || !strcmp(how, "errors")) {
        errno = error_number;
        return 1;
    }
    return !strcmp(how, "short") ? 2 : 0;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* Calls on one path, and on two. */
#define ON_PATH(name, kind, folder, file, types, words) \
    int name types { \
        REAL(name); \
        char path[PATH_MAX]; \
        return find(folder, file, path) && meet(#name, path, kind) == 1 ? -1 : real words; \
    }
ON_PATH(unlink, WRITES, AT_FDCWD, file, (const char *file), (file))
ON_PATH(unlinkat, WRITES, folder, file, (int folder, const char *file, int flags), (folder, file, flags))
ON_PATH(rmdir, WRITES, AT_FDCWD, file, (const char *file), (file))
ON_PATH(mkdir, WRITES | SPACE, AT_FDCWD, file, (const char *file, mode_t mode), (file, mode))
ON_PATH(mkdirat, WRITES | SPACE, folder, file, (int folder, const char *file, mode_t mode), (folder, file, mode))
ON_PATH(truncate, WRITES, AT_FDCWD, file, (const char *file, off_t size), (file, size))
ON_PATH(truncate64, WRITES, AT_FDCWD, file, (const char *file, off64_t size), (file, size))
ON_PATH(rename, WRITES, AT_FDCWD, to, (const char *from, const char *to), (from, to))
ON_PATH(renameat, WRITES, there, to, (int here, const char *from, int there, const char *to), (here, from, there, to))
ON_PATH(renameat2, WRITES, there, to, (int here, const char *from, int there, const char *to, unsigned flags),
        (here, from, there, to, flags))
ON_PATH(link, WRITES | SPACE, AT_FDCWD, to, (const char *from, const char *to), (from, to))
ON_PATH(linkat, WRITES | SPACE, there, to, (int here, const char *from, int there, const char *to, int flags),
        (here, from, there, to, flags))
ON_PATH(symlink, WRITES | SPACE, AT_FDCWD, to, (const char *from, const char *to), (from, to))

/* Calls on an open file. */
#define ON_FILE(type, name, kind, types, words) \
    type name types { \
        REAL(name); \
        char path[PATH_MAX]; \
        return find_open(file, path) && meet(#name, path, kind) == 1 ? -1 : real words; \
    }
ON_FILE(int, fsync, WRITES, (int file), (file))
ON_FILE(int, fdatasync, WRITES, (int file), (file))
ON_FILE(int, ftruncate, WRITES | SPACE, (int file, off_t size), (file, size))
ON_FILE(int, ftruncate64, WRITES | SPACE, (int file, off64_t size), (file, size))
ON_FILE(ssize_t, writev, WRITES | SPACE, (int file, const struct iovec *parts, int count), (file, parts, count))
ON_FILE(ssize_t, read, READS, (int file, void *bytes, size_t size), (file, bytes, size))
ON_FILE(ssize_t, pread, READS, (int file, void *bytes, size_t size, off_t place), (file, bytes, size, place))
ON_FILE(ssize_t, pread64, READS, (int file, void *bytes, size_t size, off64_t place), (file, bytes, size, place))
ON_FILE(ssize_t, sendfile, WRITES | SPACE, (int file, int from, off_t *place, size_t size), (file, from, place, size))
ON_FILE(ssize_t, copy_file_range, WRITES | SPACE,
        (int from, off64_t *start, int file, off64_t *place, size_t size, unsigned flags),
        (from, start, file, place, size, flags))
ON_FILE(ssize_t, sendfile64, WRITES | SPACE, (int file, int from, off64_t *place, size_t size),
        (file, from, place, size))

int posix_fallocate(int file, off_t place, off_t size) {
    REAL(posix_fallocate);
    char path[PATH_MAX];
    return find_open(file, path) && meet("fallocate", path, WRITES | SPACE) == 1 ? errno : real(file, place, size);
}

/* Writes may take a half of the bytes. */
#define WRITER(name, types, all, half) \
    ssize_t name types { \
        REAL(name); \
        char path[PATH_MAX]; \
        int met = find_open(file, path) ? meet(#name, path, WRITES | SPACE) : 0; \
        return met == 1 ? -1 : met == 2 && size > 1 ? real half : real all; \
    }
WRITER(write, (int file, const void *bytes, size_t size), (file, bytes, size), (file, bytes, size / 2))
WRITER(pwrite, (int file, const void *bytes, size_t size, off_t place), (file, bytes, size, place),
       (file, bytes, size / 2, place))
WRITER(pwrite64, (int file, const void *bytes, size_t size, off64_t place), (file, bytes, size, place),
       (file, bytes, size / 2, place))

/* Opening counts where it makes or empties a file, or else as reading. */
#define OPENER(name, folder, types, words) \
    int name types { \
        REAL(name); \
        mode_t mode = 0; \
        if (flags & (O_CREAT | __O_TMPFILE)) { \
            va_list rest; \
            va_start(rest, flags); \
            mode = va_arg(rest, mode_t); \
            va_end(rest); \
        } \
        char path[PATH_MAX]; \
        int kind = flags & (O_CREAT | O_TRUNC | __O_TMPFILE) ? WRITES | SPACE : READS; \
        return find(folder, file, path) && meet(#name, path, kind) == 1 ? -1 : real words; \
    }
OPENER(open, AT_FDCWD, (const char *file, int flags, ...), (file, flags, mode))
OPENER(open64, AT_FDCWD, (const char *file, int flags, ...), (file, flags, mode))
OPENER(openat, folder, (int folder, const char *file, int flags, ...), (folder, file, flags, mode))
OPENER(openat64, folder, (int folder, const char *file, int flags, ...), (folder, file, flags, mode))

#define STREAM(name) \
    FILE *name(const char *file, const char *mode) { \
        REAL(name); \
        char path[PATH_MAX]; \
        int kind = strchr(mode, 'r') ? READS : WRITES | SPACE; \
        return find(AT_FDCWD, file, path) && meet(#name, path, kind) == 1 ? NULL : real(file, mode); \
    }
STREAM(fopen)
STREAM(fopen64)
