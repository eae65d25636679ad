/* What the C examples share: the checksum, the clock, taking a role, opening a ring. Written from docs/FORMATS.md. */
#ifndef RINGS_H
#define RINGS_H

#include "escapement.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The program's name, for messages. Each program defines it. */
extern const char *const program;

static inline void refuse(const char *what)
{
    fprintf(stderr, "%s: %s\n", program, what);
    exit(1);
}

static inline uint32_t crc32c_bytes(uint32_t running, const void *data, size_t len)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < len; i++) {
        running ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            running = (running >> 1) ^ (UINT32_C(0x82F63B78) & -(running & 1));
    }
    return running;
}

/* CRC-32C of two pieces, one after the other. */
static inline uint32_t crc32c(const void *first, size_t first_len, const void *second, size_t second_len)
{
    uint32_t running = UINT32_C(0xFFFFFFFF);
    running = crc32c_bytes(running, first, first_len);
    running = crc32c_bytes(running, second, second_len);
    return running ^ UINT32_C(0xFFFFFFFF);
}

static inline uint64_t nanoseconds(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Steps 1 to 5 of "Locks" for the role `feed` or `tap`. The descriptor stays open until the process ends. */
static inline void take_role(const char *directory, const char *role)
{
    char path[4096], message[64];
    snprintf(path, sizeof path, "%s/%s.lock", directory, role);
    for (;;) {
        struct stat opened, named;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0660);
        snprintf(message, sizeof message, "cannot open or lock %s.lock", role);
        if (fd < 0)
            refuse(message);
        if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
            if (errno == EWOULDBLOCK)
                snprintf(message, sizeof message, "another %s runs", role);
            refuse(message);
        }
        if (fstat(fd, &opened) == 0 && stat(path, &named) == 0 && opened.st_ino == named.st_ino
            && opened.st_dev == named.st_dev) {
            snprintf(message, sizeof message, "cannot write %s.lock", role);
            if (ftruncate(fd, 0) != 0 || dprintf(fd, "%ld\n", (long)getpid()) < 0)
                refuse(message);
            return;
        }
        close(fd);
    }
}

/* "Opening a region". `kind` also decides the ring's file and the size of its frame header. *header receives a private
 * copy of the fixed header: use the copy, because the peer can overwrite the original. */
static inline struct escapement_region *open_region(const char *directory, enum escapement_kind kind,
                                                    struct escapement_region *header)
{
    const char *name = kind == ESCAPEMENT_KIND_ACTION ? "actions.ring" : "observations.ring";
    const uint32_t frame = kind == ESCAPEMENT_KIND_ACTION ? sizeof(struct escapement_action)
                                                          : sizeof(struct escapement_observation);
    char path[4096], message[64];
    struct stat status;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    snprintf(message, sizeof message, "cannot open %s", name);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0)
        refuse(message);
    if (status.st_size < (off_t)ESCAPEMENT_DATA_OFFSET)
        refuse("smaller than a header page");
    void *map = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    snprintf(message, sizeof message, "cannot map %s", name);
    if (map == MAP_FAILED)
        refuse(message);
    close(fd);
    memcpy(header, map, 64);
    if (memcmp(header->magic, ESCAPEMENT_MAGIC, 8) != 0)
        refuse("not a ring");
    if (header->layout_version != ESCAPEMENT_LAYOUT_VERSION)
        refuse("another layout version");
    if (header->header_checksum != crc32c(header, 60, NULL, 0))
        refuse("a damaged header");
    if (header->dtype != ESCAPEMENT_DTYPE_F32 || header->data_offset != ESCAPEMENT_DATA_OFFSET)
        refuse("another dtype or data offset");
    if (header->dimension < 1 || header->dimension > ESCAPEMENT_MAX_DIMENSION)
        refuse("a dimension that is not allowed");
    if (header->capacity < ESCAPEMENT_MIN_CAPACITY || header->capacity > ESCAPEMENT_MAX_CAPACITY
        || (header->capacity & (header->capacity - 1)) != 0)
        refuse("a capacity that is not allowed");
    if (header->kind != (uint32_t)kind)
        refuse(kind == ESCAPEMENT_KIND_ACTION ? "not an action ring" : "not an observation ring");
    if (header->slot_size != (frame + 4 * header->dimension + 63) / 64 * 64)
        refuse("a slot size that is not the frame's");
    if ((uint64_t)status.st_size != ESCAPEMENT_DATA_OFFSET + header->capacity * header->slot_size)
        refuse("a size that is not the layout's");
    return map;
}

#endif
