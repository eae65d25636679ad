/* A feed handler in C. It uses only docs/FORMATS.md and include/escapement.h. tests/layout.rs runs it.
 *
 *   producer DIRECTORY COUNT FIRST_SEQUENCE
 *
 * It commits COUNT observations, each with a checksum, and waits while the ring is full. Feature i of the
 * observation with sequence s is s + i / 16. It exits with 0, or with 1 and a line on stderr.
 *
 *   cc -std=c11 -O2 -I include examples/producer.c -o producer */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE
#include "escapement.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void refuse(const char *what)
{
    fprintf(stderr, "producer: %s\n", what);
    exit(1);
}

static uint32_t crc32c_bytes(uint32_t running, const void *data, size_t len)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < len; i++) {
        running ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            running = (running >> 1) ^ (UINT32_C(0x82F63B78) & -(running & 1));
    }
    return running;
}

static uint32_t crc32c(const void *first, size_t first_len, const void *second, size_t second_len)
{
    uint32_t running = UINT32_C(0xFFFFFFFF);
    running = crc32c_bytes(running, first, first_len);
    running = crc32c_bytes(running, second, second_len);
    return running ^ UINT32_C(0xFFFFFFFF);
}

static uint64_t nanoseconds(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Takes the producer's lock: steps 1 to 5 of "Locks" in docs/FORMATS.md. The descriptor stays open until exit. */
static void take_role(const char *directory)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/feed.lock", directory);
    for (;;) {
        struct stat opened, named;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0660);
        if (fd < 0)
            refuse("cannot open feed.lock");
        if (flock(fd, LOCK_EX | LOCK_NB) != 0)
            refuse(errno == EWOULDBLOCK ? "another feed runs" : "cannot lock feed.lock");
        if (fstat(fd, &opened) == 0 && stat(path, &named) == 0 && opened.st_ino == named.st_ino
            && opened.st_dev == named.st_dev) {
            if (ftruncate(fd, 0) != 0 || dprintf(fd, "%ld\n", (long)getpid()) < 0)
                refuse("cannot write feed.lock");
            return;
        }
        close(fd);
    }
}

/* Maps and checks the region: "Opening a region" in docs/FORMATS.md. Copies the header page to *header; use only
 * this copy, because another process can write to the region. */
static struct escapement_region *open_region(const char *directory, struct escapement_region *header)
{
    char path[4096];
    struct stat status;
    snprintf(path, sizeof path, "%s/observations.ring", directory);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0)
        refuse("cannot open observations.ring");
    if (status.st_size < (off_t)ESCAPEMENT_DATA_OFFSET)
        refuse("smaller than a header page");
    void *map = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        refuse("cannot map observations.ring");
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
    if (header->kind != ESCAPEMENT_KIND_OBSERVATION)
        refuse("not an observation ring");
    if (header->slot_size != (32 + 4 * header->dimension + 63) / 64 * 64)
        refuse("a slot size that is not the frame's");
    if ((uint64_t)status.st_size != ESCAPEMENT_DATA_OFFSET + header->capacity * header->slot_size)
        refuse("a size that is not the layout's");
    return map;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        refuse("usage: producer DIRECTORY COUNT FIRST_SEQUENCE");
    const uint64_t count = strtoull(argv[2], NULL, 10), first = strtoull(argv[3], NULL, 10);
    static struct escapement_region header;
    take_role(argv[1]);
    struct escapement_region *region = open_region(argv[1], &header);
    const uint64_t capacity = header.capacity;

    uint64_t position = atomic_load_explicit(&region->producer_position, memory_order_acquire);
    uint64_t seen = atomic_load_explicit(&region->consumer_position, memory_order_acquire);
    if (position > ESCAPEMENT_MAX_POSITION || seen > position || position - seen > capacity)
        refuse("impossible positions");

    for (uint64_t sequence = first; sequence < first + count; sequence++) {
        while (position - seen == capacity) {
            uint64_t found = atomic_load_explicit(&region->consumer_position, memory_order_acquire);
            if (found < seen || found > position || position - found > capacity)
                refuse("the consumer broke the protocol");
            seen = found;
            atomic_store_explicit(&region->producer_heartbeat_ns, nanoseconds(CLOCK_MONOTONIC), memory_order_relaxed);
            if (position - seen == capacity)
                sched_yield();
        }
        struct escapement_observation *slot =
            (void *)((uint8_t *)region + ESCAPEMENT_DATA_OFFSET + (position & (capacity - 1)) * header.slot_size);
        slot->sequence = sequence;
        slot->ts_event_ns = nanoseconds(CLOCK_REALTIME);
        slot->flags = ESCAPEMENT_OBSERVATION_CHECKED | (sequence == first ? ESCAPEMENT_OBSERVATION_RESTART : 0);
        for (uint32_t i = 0; i < header.dimension; i++)
            slot->payload[i] = (float)sequence + (float)i / 16.0f;
        slot->ts_publish_ns = nanoseconds(CLOCK_MONOTONIC);
        slot->checksum = crc32c(slot, 28, slot->payload, 4 * (size_t)header.dimension);
        position++;
        atomic_store_explicit(&region->producer_position, position, memory_order_release);
        atomic_store_explicit(&region->producer_heartbeat_ns, nanoseconds(CLOCK_MONOTONIC), memory_order_relaxed);
    }
    return 0;
}
