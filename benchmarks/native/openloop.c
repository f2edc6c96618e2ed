/* Sends one ready-made HTTP request many times over keep-alive connections and times the answers.
 *
 *   openloop -p PORT -f REQUEST_FILE -e EXPECTED_BYTES -c CONNECTIONS -n COUNT [-r PER_SECOND | -d SECONDS] [-s]
 *
 * With -r it is an open loop: request k is due at start + k / rate whatever happened to the others, and
 * its latency counts from that moment, so that a stall of the proxy is seen by every request it held up.
 * Without -r it is a closed loop (each connection sends when it has its answer) that ends after COUNT, or
 * with -d sooner when the time is over. -s: spins, see http.h.
 * An answer counts only with status 200 and EXPECTED_BYTES in its body. Prints one JSON object.
 */
#include "http.h"
#include <sys/timerfd.h>

#define BODY_KEPT 65536
#define GRACE_NS 5000000000u /* for the last answers, after the last request was due */

struct connection {
    int fd;
    int busy;
    uint64_t due;
    size_t sent;
    struct response in;
    size_t kept;
    char body[BODY_KEPT];
};

static struct {
    int port, connections, epoll, timer, idle_count, spin;
    double rate, seconds;
    size_t count, sent, done, bad, request_size, expected_size;
    const char *expected;
    char *request, *first_bad;
    struct connection *all;
    int *idle;
    uint64_t start, *latency;
} B;

static void keep(void *context, const char *data, size_t size)
{
    struct connection *k = context;
    size_t room = BODY_KEPT - k->kept;
    if (size > room)
        size = room;
    memcpy(k->body + k->kept, data, size);
    k->kept += size;
}

static void watch(struct connection *k, int operation, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.u32 = (uint32_t)(k - B.all)};
    if (epoll_ctl(B.epoll, operation, k->fd, &e))
        die("epoll_ctl");
}

static void connect_again(struct connection *k)
{
    if (k->fd >= 0)
        close(k->fd);
    if ((k->fd = dial(B.port)) < 0)
        die("connect");
    watch(k, EPOLL_CTL_ADD, EPOLLIN);
}

static void rest(struct connection *k)
{
    k->busy = 0;
    B.idle[B.idle_count++] = (int)(k - B.all);
}

static void fail(struct connection *k, const char *why)
{
    if (!B.bad++) {
        char text[512];
        snprintf(text, sizeof text, "%s; status %d; body %.200s", why, k->in.status, k->kept ? k->body : "");
        B.first_bad = strdup(text);
    }
    connect_again(k);
    rest(k);
}

static void push(struct connection *k)
{
    while (k->sent < B.request_size) {
        ssize_t n = send(k->fd, B.request + k->sent, B.request_size - k->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            watch(k, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        if (n < 0) {
            fail(k, "could not send");
            return;
        }
        k->sent += (size_t)n;
    }
}

static void fire(uint64_t due)
{
    struct connection *k = &B.all[B.idle[--B.idle_count]];
    k->busy = 1;
    k->due = due;
    k->sent = k->kept = 0;
    response_reset(&k->in);
    B.sent++;
    push(k);
}

static void answered(struct connection *k, uint64_t at)
{
    k->body[k->kept < BODY_KEPT ? k->kept : BODY_KEPT - 1] = 0;
    if (k->in.status != 200 || !memmem(k->body, k->kept, B.expected, B.expected_size)) {
        fail(k, "unexpected answer");
        return;
    }
    B.latency[B.done++] = at - k->due;
    if (k->in.closes)
        connect_again(k);
    rest(k);
}

static void receive(struct connection *k)
{
    char data[65536];
    ssize_t n = read(k->fd, data, sizeof data);
    uint64_t at = now_ns();
    if (n < 0 && errno == EAGAIN)
        return;
    if (!k->busy) { /* an idle connection was closed: normal */
        if (n <= 0)
            connect_again(k);
        return;
    }
    if (n <= 0) {
        if (n == 0 && k->in.phase == TO_CLOSE)
            answered(k, at);
        else
            fail(k, "connection lost");
        return;
    }
    if (response_feed(&k->in, data, (size_t)n, keep, k) < (size_t)n || k->in.phase == FAILED)
        fail(k, "not one HTTP response");
    else if (k->in.phase == DONE)
        answered(k, at);
}

static uint64_t due_at(size_t number)
{
    return B.start + (uint64_t)((double)number * 1e9 / B.rate);
}

/* Sends what is due, and sets the timer for the next one. */
static void send_due(void)
{
    if (B.seconds > 0 && B.sent < B.count && now_ns() - B.start > (uint64_t)(B.seconds * 1e9))
        B.count = B.sent; /* the time is over: what is under way is all that comes */
    while (B.sent < B.count && B.idle_count) {
        uint64_t now = now_ns(), due = B.rate > 0 ? due_at(B.sent) : now;
        if (due > now) {
            struct itimerspec t = {.it_value = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)}};
            if (timerfd_settime(B.timer, TFD_TIMER_ABSTIME, &t, NULL))
                die("timerfd_settime");
            return;
        }
        fire(due);
    }
}

static void prepare(void)
{
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    B.epoll = epoll_create1(EPOLL_CLOEXEC);
    B.timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (B.epoll < 0 || B.timer < 0 || epoll_ctl(B.epoll, EPOLL_CTL_ADD, B.timer, &e))
        die("epoll");
    B.all = must_alloc((size_t)B.connections, sizeof *B.all);
    B.idle = must_alloc((size_t)B.connections, sizeof *B.idle);
    B.latency = must_alloc(B.count, sizeof *B.latency);
    for (int i = 0; i < B.connections; i++) {
        B.all[i].fd = -1;
        connect_again(&B.all[i]);
        rest(&B.all[i]);
    }
    B.start = now_ns() + (B.rate > 0 ? 20000000u : 0);
}

static void turn(void)
{
    struct epoll_event ready[256];
    uint64_t expirations;
    int n = wait_ready(B.epoll, ready, 256, 500, B.spin);
    if (n < 0 && errno != EINTR)
        die("epoll_wait");
    for (int i = 0; i < n; i++) {
        if (ready[i].data.u32 == UINT32_MAX) {
            if (read(B.timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
                die("timerfd");
            continue;
        }
        struct connection *k = &B.all[ready[i].data.u32];
        if (ready[i].events & EPOLLOUT && k->busy) {
            watch(k, EPOLL_CTL_MOD, EPOLLIN);
            push(k);
        }
        if (ready[i].events & ~(uint32_t)EPOLLOUT)
            receive(k);
    }
}

static void run(void)
{
    uint64_t last = B.start;
    size_t progress = 0;
    for (send_due(); B.done + B.bad < B.count; send_due()) {
        turn();
        if (B.done + B.bad > progress || B.idle_count == B.connections) {
            progress = B.done + B.bad;
            last = now_ns();
        }
        if (now_ns() - last > GRACE_NS)
            break;
    }
}

static void print_json_text(const char *text)
{
    putchar('"');
    for (; *text; text++)
        if ((unsigned char)*text < 32 || *text == '"' || *text == '\\')
            printf("\\u%04x", (unsigned char)*text);
        else
            putchar(*text);
    putchar('"');
}

static void report(void)
{
    double seconds = (double)(now_ns() - B.start) / 1e9, sum = 0;
    for (size_t i = 0; i < B.done; i++)
        sum += (double)B.latency[i] / 1000.0;
    qsort(B.latency, B.done, sizeof *B.latency, compare_u64);
    printf("{\"done\": %zu, \"bad\": %zu, \"missing\": %zu, \"seconds\": %.6f, \"mean_us\": %.1f, ", B.done, B.bad,
           B.count - B.done - B.bad, seconds, B.done ? sum / (double)B.done : 0.0);
    printf("\"p50_us\": %.1f, \"p95_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, \"first_bad\": ",
           quantile_us(B.latency, B.done, 0.5), quantile_us(B.latency, B.done, 0.95),
           quantile_us(B.latency, B.done, 0.99), quantile_us(B.latency, B.done, 1.0));
    print_json_text(B.first_bad ? B.first_bad : "");
    printf("}\n");
}

int main(int argc, char **argv)
{
    int option;
    B.connections = 1;
    B.expected = "";
    while ((option = getopt(argc, argv, "p:f:e:c:n:r:d:s")) != -1) {
        switch (option) {
        case 'p': B.port = atoi(optarg); break;
        case 'f': B.request = read_file(optarg, &B.request_size); break;
        case 'e': B.expected = optarg; break;
        case 'c': B.connections = atoi(optarg); break;
        case 'n': B.count = strtoull(optarg, NULL, 10); break;
        case 'r': B.rate = atof(optarg); break;
        case 'd': B.seconds = atof(optarg); break;
        case 's': B.spin = 1; break;
        default: return 2;
        }
    }
    if (!B.request || B.port <= 0 || B.connections <= 0 || !B.count) {
        fprintf(stderr, "usage: openloop -p PORT -f FILE -e BYTES -c CONNECTIONS -n COUNT [-r PER_SECOND | -d SECONDS] [-s]\n");
        return 2;
    }
    B.expected_size = strlen(B.expected);
    prepare();
    run();
    report();
    return 0;
}
