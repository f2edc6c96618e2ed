/* Opens event streams with one ready-made request each and reads them.
 *
 *   streams -p PORT -f REQUEST_FILE -c STREAMS          reads each to its end, prints one JSON object
 *   streams -p PORT -f REQUEST_FILE -c STREAMS -h       waits for the first event of each, prints
 *                                                       {"open": N}, holds them until stdin ends
 *
 * The delay of an event is the time of the read() that completed it less the time its writer put into it
 * (`sent=` and nanoseconds of CLOCK_MONOTONIC, see stub.c). A stream is whole when its last event holds a
 * result and its HTTP framing ended properly.
 */
#include "http.h"

#define LINE_LIMIT 8192
#define STALL_MS 10000

struct stream {
    int fd, seen, answered;
    struct response in;
    uint64_t at; /* of the read() being taken apart */
    size_t used;
    char line[LINE_LIMIT];
};

static struct {
    int loop, port, count, hold, open, seen, whole, broken;
    char *request;
    size_t request_size;
    struct stream *all;
    uint64_t events, *delay, first, last;
    size_t delays, room;
} B;

static void event(struct stream *s)
{
    const char *sent = strstr(s->line, "sent=");
    if (strstr(s->line, "\"result\"")) {
        s->answered = 1;
        return;
    }
    B.events++;
    if (!B.first)
        B.first = s->at;
    B.last = s->at;
    if (!s->seen) {
        s->seen = 1;
        B.seen++;
    }
    if (!sent)
        return;
    if (B.delays == B.room) {
        B.room = B.room ? 2 * B.room : 65536;
        if (!(B.delay = realloc(B.delay, B.room * sizeof *B.delay)))
            die("realloc");
    }
    B.delay[B.delays++] = s->at - strtoull(sent + 5, NULL, 16);
}

static void take(void *context, const char *data, size_t size)
{
    struct stream *s = context;
    for (size_t i = 0; i < size; i++) {
        if (data[i] != '\n') {
            if (s->used + 1 < LINE_LIMIT)
                s->line[s->used++] = data[i];
            continue;
        }
        s->line[s->used] = 0;
        s->used = 0;
        if (!strncmp(s->line, "data:", 5))
            event(s);
    }
}

static void finish(struct stream *s)
{
    int ok = s->in.status == 200 && s->answered && s->in.phase == DONE;
    if (!ok && !B.broken++)
        fprintf(stderr, "broken stream: status %d, phase %d, %.300s\n", s->in.status, (int)s->in.phase, s->line);
    B.whole += ok;
    close(s->fd);
    s->fd = -1;
    B.open--;
}

static void receive(struct stream *s)
{
    char data[65536];
    ssize_t n = read(s->fd, data, sizeof data);
    if (n < 0 && errno == EAGAIN)
        return;
    s->at = now_ns();
    if (n > 0)
        response_feed(&s->in, data, (size_t)n, take, s);
    if (n <= 0 || s->in.phase == DONE || s->in.phase == FAILED)
        finish(s);
}

static void start(struct stream *s)
{
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = (uint32_t)(s - B.all)};
    if ((s->fd = dial(B.port)) < 0)
        die("connect");
    if (send(s->fd, B.request, B.request_size, MSG_NOSIGNAL) != (ssize_t)B.request_size)
        die("send"); /* a request fits a fresh socket's buffer */
    if (epoll_ctl(B.loop, EPOLL_CTL_ADD, s->fd, &e))
        die("epoll_ctl");
    B.open++;
}

/* Handles what is ready. 0 when nothing came for STALL_MS. */
static int turn(void)
{
    struct epoll_event ready[256];
    int n = epoll_wait(B.loop, ready, 256, STALL_MS);
    for (int i = 0; i < n; i++)
        if (B.all[ready[i].data.u32].fd >= 0)
            receive(&B.all[ready[i].data.u32]);
    return n > 0 || (n < 0 && errno == EINTR);
}

static void report(void)
{
    qsort(B.delay, B.delays, sizeof *B.delay, compare_u64);
    printf("{\"events\": %llu, \"whole\": %d, \"broken\": %d, \"seconds\": %.6f, \"p50_us\": %.1f, \"p95_us\": %.1f, "
           "\"p99_us\": %.1f, \"max_us\": %.1f}\n",
           (unsigned long long)B.events, B.whole, B.count - B.whole, (double)(B.last - B.first) / 1e9,
           quantile_us(B.delay, B.delays, 0.5), quantile_us(B.delay, B.delays, 0.95),
           quantile_us(B.delay, B.delays, 0.99), quantile_us(B.delay, B.delays, 1.0));
}

static void hold(void)
{
    char c;
    printf("{\"open\": %d, \"broken\": %d}\n", B.seen, B.broken);
    fflush(stdout);
    while (read(0, &c, 1) > 0)
        ;
}

int main(int argc, char **argv)
{
    int option;
    while ((option = getopt(argc, argv, "p:f:c:h")) != -1) {
        switch (option) {
        case 'p': B.port = atoi(optarg); break;
        case 'f': B.request = read_file(optarg, &B.request_size); break;
        case 'c': B.count = atoi(optarg); break;
        case 'h': B.hold = 1; break;
        default: return 2;
        }
    }
    if (!B.request || B.port <= 0 || B.count <= 0) {
        fprintf(stderr, "usage: streams -p PORT -f FILE -c STREAMS [-h]\n");
        return 2;
    }
    if ((B.loop = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("epoll_create1");
    B.all = must_alloc((size_t)B.count, sizeof *B.all);
    for (int i = 0; i < B.count; i++) {
        start(&B.all[i]);
        while (B.hold && B.seen + B.broken <= i && turn())
            ;
    }
    if (B.hold) {
        hold();
        return 0;
    }
    while (B.open && turn())
        ;
    report();
    return 0;
}
