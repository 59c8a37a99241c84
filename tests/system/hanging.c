/* Preloaded into a daemon: while the file $HANGS_WHILE is there, whatever is asked of a path that
   begins with $HANGS_UNDER waits, as on a disk or a file server that hangs, and the path is added to
   that file. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Declared here as they are called, without the headers that have them with "...". */
typedef unsigned mode_type;
enum { HERE = -100 /* AT_FDCWD */ };

static void note(const char *flag, const char *path) {
    int (*open_really)(const char *, int, mode_type) =
        (int (*)(const char *, int, mode_type)) dlsym(RTLD_NEXT, "open");
    char line[4097];
    size_t length = strlen(path);
    int file = open_really(flag, 02001 /* O_WRONLY | O_APPEND */, 0);
    if (file < 0) return;
    if (length > sizeof line - 1) length = sizeof line - 1;
    memcpy(line, path, length);
    line[length] = '\n';
    if (write(file, line, length + 1) < 0) { /* Nobody learns of it. */ }
    close(file);
}

static void hang(int folder, const char *path) {
    const char *under = getenv("HANGS_UNDER"), *flag = getenv("HANGS_WHILE");
    char link[] = "/proc/self/fd/0000000000", found[4096];
    if (!under || !flag) return;
    if (folder >= 0 && (!path || path[0] != '/')) {
        char *digit = link + sizeof link - 1;
        char *first = link + strlen("/proc/self/fd/");
        int rest = folder;
        while (digit > first) { *--digit = '0' + rest % 10; rest /= 10; }
        while (*first == '0' && first[1]) memmove(first, first + 1, strlen(first));
        ssize_t length = readlink(link, found, sizeof found - 1);
        if (length < 0) return;
        found[length] = 0;
        path = found;
    }
    if (!path || strncmp(path, under, strlen(under))) return;
    if (access(flag, F_OK) == 0) note(flag, path);
    while (access(flag, F_OK) == 0) usleep(20000);
}

#define SHIM(type, name, parameters, arguments, folder, path) \
    type name parameters { \
        type (*real) parameters = (type (*) parameters) dlsym(RTLD_NEXT, #name); \
        hang(folder, path); \
        return real arguments; \
    }
#define SHIM_64(type, name, parameters, arguments, folder, path) \
    SHIM(type, name, parameters, arguments, folder, path) \
    SHIM(type, name##64, parameters, arguments, folder, path)

SHIM_64(int, open, (const char *path, int flags, mode_type mode), (path, flags, mode), HERE, path)
SHIM_64(int, openat, (int at, const char *path, int flags, mode_type mode),
        (at, path, flags, mode), at, path)
SHIM_64(void *, fopen, (const char *path, const char *mode), (path, mode), HERE, path)
SHIM_64(int, stat, (const char *path, void *into), (path, into), HERE, path)
SHIM_64(int, lstat, (const char *path, void *into), (path, into), HERE, path)
SHIM_64(int, fstatat, (int at, const char *path, void *into, int flags),
        (at, path, into, flags), at, path)
SHIM(int, mkdir, (const char *path, mode_type mode), (path, mode), HERE, path)
SHIM(int, mkdirat, (int at, const char *path, mode_type mode), (at, path, mode), at, path)
SHIM(int, rename, (const char *from, const char *to), (from, to), HERE, from)
SHIM(int, renameat, (int at, const char *from, int to_at, const char *to),
     (at, from, to_at, to), at, from)
SHIM(int, unlink, (const char *path), (path), HERE, path)
SHIM(int, unlinkat, (int at, const char *path, int flags), (at, path, flags), at, path)
SHIM(int, fsync, (int file), (file), file, 0)
SHIM(int, fdatasync, (int file), (file), file, 0)
SHIM_64(long, pwrite, (int file, const void *bytes, size_t count, long at),
        (file, bytes, count, at), file, 0)
