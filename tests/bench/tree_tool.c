/* What is too fast for an interpreter: loops of single system calls. Each command prints the seconds it took.
 *
 *   make DIR COUNT SIZE PER_DIR     COUNT files of SIZE bytes, PER_DIR in each directory dNNNNNN below DIR
 *   unlink DIR COUNT PER_DIR        removes these
 *   stat DIR                        lstat of everything below DIR
 *   rewrite FILE COUNT SEED         4 KiB at COUNT random, different block offsets
 *   append FILE COUNT SIZE          COUNT appends of SIZE bytes
 *   ops DIR COUNT PER_DIR N SEED    N each of create, write (4 KiB), stat, rename among COUNT files that `make` made;
 *                                   prints one line "name microseconds" for each
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096 };

static char block[1 << 20];
static uint64_t random_state;

static void fail(const char *what) {
    fprintf(stderr, "tree_tool: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* xorshift64*: the same sequence everywhere. */
static uint64_t next_random(void) {
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 2685821657736338717ULL;
}

static void seed_random(uint64_t seed) {
    random_state = seed * 0x9e3779b97f4a7c15ULL + 1;
}

static void fill_block(size_t size) {
    for (size_t at = 0; at < size; at += sizeof(uint64_t)) {
        uint64_t word = next_random();
        memcpy(block + at, &word, sizeof word);
    }
}

static void name_of(char *out, size_t room, const char *dir, long number, long per_dir) {
    snprintf(out, room, "%s/d%06ld/f%08ld", dir, number / per_dir, number);
}

static void write_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t done = write(fd, data, size);
        if (done < 0) fail("write");
        data += done;
        size -= (size_t)done;
    }
}

static void make(const char *dir, long count, size_t size, long per_dir) {
    char path[4096];
    for (long number = 0; number < count; number++) {
        if (number % per_dir == 0) {
            snprintf(path, sizeof path, "%s/d%06ld", dir, number / per_dir);
            if (mkdir(path, 0755) < 0 && errno != EEXIST) fail(path);
        }
        name_of(path, sizeof path, dir, number, per_dir);
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
        if (fd < 0) fail(path);
        /* Fresh bytes for each, so that nothing compresses away. */
        fill_block(size);
        if (size > 0) write_all(fd, block, size);
        close(fd);
    }
}

static void unlink_all(const char *dir, long count, long per_dir) {
    char path[4096];
    for (long number = 0; number < count; number++) {
        name_of(path, sizeof path, dir, number, per_dir);
        if (unlink(path) < 0) fail(path);
    }
}

static long seen;

static int see(const char *path, const struct stat *stat, int kind, struct FTW *walk) {
    (void)path; (void)stat; (void)kind; (void)walk;
    seen++;
    return 0;
}

static void rewrite(const char *file, long count) {
    int fd = open(file, O_WRONLY);
    struct stat stat;
    if (fd < 0 || fstat(fd, &stat) < 0) fail(file);
    long blocks = (long)(stat.st_size / BLOCK);
    char *done = calloc((size_t)blocks, 1);
    if (done == NULL || count > blocks) fail("more blocks than there are");
    for (long written = 0; written < count;) {
        long at = (long)(next_random() % (uint64_t)blocks);
        if (done[at]) continue;
        done[at] = 1;
        uint64_t word = next_random();
        memcpy(block, &word, sizeof word);
        const char *data = block + next_random() % (sizeof block - BLOCK);
        if (pwrite(fd, data, BLOCK, at * BLOCK) != BLOCK) fail("pwrite");
        written++;
    }
    close(fd);
}

static void append(const char *file, long count, size_t size) {
    int fd = open(file, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (fd < 0) fail(file);
    for (long number = 0; number < count; number++)
        write_all(fd, block + next_random() % (sizeof block - size), size);
    close(fd);
}

static void told(const char *name, double began, long count) {
    printf("%s %.3f\n", name, (now() - began) * 1e6 / (double)count);
}

static void ops(const char *dir, long count, long per_dir, long n) {
    char path[4096], other[4200];
    struct stat stat_of;
    long dirs = (count + per_dir - 1) / per_dir;
    double began = now();
    for (long number = 0; number < n; number++) {
        snprintf(path, sizeof path, "%s/d%06ld/new%ld", dir, (long)(next_random() % (uint64_t)dirs), number);
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
        if (fd < 0) fail(path);
        close(fd);
    }
    told("create", began, n);
    double writing = 0;
    for (long number = 0; number < n; number++) {
        name_of(path, sizeof path, dir, (long)(next_random() % (uint64_t)count), per_dir);
        int fd = open(path, O_WRONLY);
        if (fd < 0) fail(path);
        double before = now();
        if (pwrite(fd, block + next_random() % (sizeof block - BLOCK), BLOCK, 0) != BLOCK) fail("pwrite");
        writing += now() - before;
        close(fd);
    }
    printf("write %.3f\n", writing * 1e6 / (double)n);
    began = now();
    for (long number = 0; number < n; number++) {
        name_of(path, sizeof path, dir, (long)(next_random() % (uint64_t)count), per_dir);
        if (lstat(path, &stat_of) < 0) fail(path);
    }
    told("stat", began, n);
    /* There and back, so that the next round finds every name. */
    began = now();
    for (long number = 0; number < n; number += 2) {
        name_of(path, sizeof path, dir, (long)(next_random() % (uint64_t)count), per_dir);
        snprintf(other, sizeof other, "%s.moved", path);
        if (rename(path, other) < 0) fail(path);
        if (rename(other, path) < 0) fail(other);
    }
    told("rename", began, n);
}

int main(int argc, char **argv) {
    const char *what = argc > 2 ? argv[1] : "";
    long number[4] = {0};
    for (int at = 3; at < argc && at < 7; at++) number[at - 3] = atol(argv[at]);
    seed_random(7);
    fill_block(sizeof block);
    double began = now();
    if (strcmp(what, "make") == 0 && argc == 6) make(argv[2], number[0], (size_t)number[1], number[2]);
    else if (strcmp(what, "unlink") == 0 && argc == 5) unlink_all(argv[2], number[0], number[1]);
    else if (strcmp(what, "stat") == 0 && argc == 3) {
        if (nftw(argv[2], see, 64, FTW_PHYS) < 0) fail(argv[2]);
    } else if (strcmp(what, "rewrite") == 0 && argc == 5) {
        seed_random((uint64_t)number[1]);
        rewrite(argv[2], number[0]);
    } else if (strcmp(what, "append") == 0 && argc == 5) append(argv[2], number[0], (size_t)number[1]);
    else if (strcmp(what, "ops") == 0 && argc == 7) {
        seed_random((uint64_t)number[3]);
        ops(argv[2], number[0], number[1], number[2]);
        return 0;
    } else {
        fprintf(stderr, "tree_tool: see the head of tree_tool.c\n");
        return 2;
    }
    printf("%.6f\n", now() - began);
    return 0;
}
