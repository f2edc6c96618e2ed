/* What the three native tools share: a clock, a socket, and an incremental reader of HTTP/1.1 responses.
 *
 * The reader takes bytes in pieces of any size and understands Content-Length and chunked bodies, and
 * bodies that end with the connection. It is meant for answers of a proxy under test on loopback: it is
 * correct about framing, and everything it does not understand is a failure, never a guess.
 */
#ifndef OPENMCP_BENCH_HTTP_H
#define OPENMCP_BENCH_HTTP_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD_LIMIT 16384

enum phase { HEAD, BODY, TO_CLOSE, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, DONE, FAILED };

struct response {
    enum phase phase;
    int status;
    int closes; /* the connection cannot be used again */
    uint64_t left; /* bytes of body or chunk still to come */
    size_t used;
    char head[HEAD_LIMIT];
};

typedef void (*body_sink)(void *context, const char *data, size_t size);

/* Nanoseconds of CLOCK_MONOTONIC: the same clock in every process of the machine. */
static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void die(const char *what)
{
    perror(what);
    exit(3);
}

static inline void *must_alloc(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    if (!p)
        die("calloc");
    return p;
}

/* Reads a whole file (a ready-made request). Ends the program when it cannot. */
static inline char *read_file(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    long end;
    char *data;
    if (!f || fseek(f, 0, SEEK_END) || (end = ftell(f)) < 0 || fseek(f, 0, SEEK_SET))
        die(path);
    data = must_alloc((size_t)end + 1, 1);
    if (fread(data, 1, (size_t)end, f) != (size_t)end)
        die(path);
    fclose(f);
    *size = (size_t)end;
    return data;
}

/* A connected, non-blocking loopback socket; -1 where nothing listens. */
static inline int dial(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) || fcntl(fd, F_SETFL, O_NONBLOCK)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* The value of a header in a NUL-terminated head, or NULL. `name` is lower case and ends in a colon. */
static inline const char *header(const char *head, const char *name)
{
    size_t n = strlen(name);
    const char *line = strstr(head, "\r\n");
    while (line) {
        line += 2;
        if (!strncasecmp(line, name, n)) {
            line += n;
            while (*line == ' ' || *line == '\t')
                line++;
            return line;
        }
        line = strstr(line, "\r\n");
    }
    return NULL;
}

static inline void response_reset(struct response *r)
{
    r->phase = HEAD;
    r->status = r->closes = 0;
    r->left = r->used = 0;
}

static inline void response_head(struct response *r)
{
    const char *length = header(r->head, "content-length:");
    const char *coding = header(r->head, "transfer-encoding:");
    const char *connection = header(r->head, "connection:");
    r->used = 0;
    if (sscanf(r->head, "HTTP/1.1 %3d", &r->status) != 1) {
        r->phase = FAILED;
        return;
    }
    r->closes = connection && !strncasecmp(connection, "close", 5);
    if (coding && !strncasecmp(coding, "chunked", 7)) {
        r->phase = CHUNK_SIZE;
    } else if (length) {
        r->left = strtoull(length, NULL, 10);
        r->phase = r->left ? BODY : DONE;
    } else if (r->status == 204 || r->status == 304 || r->status < 200) {
        r->phase = r->status < 200 ? HEAD : DONE;
    } else {
        r->closes = 1;
        r->phase = TO_CLOSE;
    }
}

/* One byte of a line; 1 when the line is complete (without its end) in r->head. */
static inline int response_line(struct response *r, char c)
{
    if (c == '\n') {
        if (r->used && r->head[r->used - 1] == '\r')
            r->used--;
        r->head[r->used] = 0;
        return 1;
    }
    if (r->used + 1 >= HEAD_LIMIT)
        r->phase = FAILED;
    else
        r->head[r->used++] = c;
    return 0;
}

static inline void response_byte(struct response *r, char c)
{
    if (r->phase == HEAD) {
        if (r->used + 1 >= HEAD_LIMIT) {
            r->phase = FAILED;
            return;
        }
        r->head[r->used++] = c;
        if (c == '\n' && r->used >= 4 && !memcmp(r->head + r->used - 4, "\r\n\r\n", 4)) {
            r->head[r->used] = 0;
            response_head(r);
        }
    } else if (response_line(r, c)) {
        size_t length = r->used;
        r->used = 0;
        if (r->phase == CHUNK_SIZE) {
            r->left = strtoull(r->head, NULL, 16);
            r->phase = r->left ? CHUNK_DATA : TRAILER;
        } else if (r->phase == CHUNK_END) {
            r->phase = length ? FAILED : CHUNK_SIZE;
        } else if (!length) { /* TRAILER */
            r->phase = DONE;
        }
    }
}

/* Feeds bytes; body bytes go to `sink`. Stops after the response: returns how many bytes it took. */
static inline size_t response_feed(struct response *r, const char *data, size_t size, body_sink sink, void *context)
{
    size_t at = 0;
    while (at < size && r->phase != DONE && r->phase != FAILED) {
        if (r->phase == BODY || r->phase == CHUNK_DATA || r->phase == TO_CLOSE) {
            size_t part = size - at;
            if (r->phase != TO_CLOSE && part > r->left)
                part = (size_t)r->left;
            sink(context, data + at, part);
            at += part;
            if (r->phase != TO_CLOSE && !(r->left -= part))
                r->phase = r->phase == BODY ? DONE : CHUNK_END;
        } else {
            response_byte(r, data[at++]);
        }
    }
    return at;
}

/* epoll_wait; with `spin` it polls and yields instead of sleeping, for up to a second.
 *
 * A write to a sleeping peer pays for waking it, which on a virtual machine can cost more than all the rest; a slow
 * proxy would pay it at every call and a fast one, whose peers are always busy, never.
 */
static inline int wait_ready(int epoll, struct epoll_event *ready, int room, int timeout_ms, int spin)
{
    uint64_t until = spin ? now_ns() + 1000000000u : 0;
    while (spin && now_ns() < until) {
        int n = epoll_wait(epoll, ready, room, 0);
        if (n)
            return n;
        sched_yield();
    }
    return epoll_wait(epoll, ready, room, timeout_ms);
}

static inline int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The p-quantile (nearest rank below) of sorted nanoseconds, in microseconds. */
static inline double quantile_us(const uint64_t *sorted, size_t count, double p)
{
    return count ? (double)sorted[(size_t)((double)(count - 1) * p)] / 1000.0 : 0.0;
}

#endif
