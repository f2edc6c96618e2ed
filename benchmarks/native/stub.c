/* The MCP server behind every proxy under test: answers correctly, and far faster than any of them.
 *
 *   stub [-p PORT] [-s]     prints "ready PORT" once it listens (absent: any free port); -s: spins, see http.h
 *
 * It knows both eras as far as the load needs: initialize (mints a session id), notifications (202), ping,
 * tools/list, server/discover, and tools/call of two tools. `get_weather` answers with a constant result
 * such that the body is 1 KiB; `watch` answers with an event stream of `events` progress notifications,
 * `perSecond` of them a second (0: as fast as the reader takes them; events 0: one, then silence until the
 * client goes), each with the CLOCK_MONOTONIC time of its writing, and then the result. A GET gets a silent
 * stream. It reads JSON by looking for keys: good enough for the requests of this benchmark alone.
 */
#include "http.h"
#include <sys/timerfd.h>

#define IN_LIMIT 65536
#define RESULT_SIZE 1024
#define BATCH 16
#define OUT_LIMIT 32768

struct peer {
    int fd, timer;
    int streaming, silent, flooding, waiting;
    uint64_t start, number, total; /* of the stream */
    double rate;
    char id[80], token[80];
    int modern;
    size_t used, out_used, out_sent;
    char in[IN_LIMIT + 1];
    char out[OUT_LIMIT];
    struct peer *next_dead;
};

static int loop;
static struct peer *dead; /* freed after the turn: events of the same turn may still name them */
static uint64_t sessions;

static void watch(struct peer *p, int fd, int operation, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.u64 = (uint64_t)(uintptr_t)p | (fd == p->timer)};
    if (epoll_ctl(loop, operation, fd, &e))
        die("epoll_ctl");
}

static void end(struct peer *p)
{
    if (p->fd < 0)
        return;
    close(p->fd);
    if (p->timer >= 0)
        close(p->timer);
    p->fd = p->timer = -1;
    p->next_dead = dead;
    dead = p;
}

/* Writes what is queued; what does not fit waits for EPOLLOUT. */
static void flush(struct peer *p)
{
    while (p->fd >= 0 && p->out_sent < p->out_used) {
        ssize_t n = send(p->fd, p->out + p->out_sent, p->out_used - p->out_sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) {
            end(p);
            return;
        }
        if (n < 0)
            break;
        p->out_sent += (size_t)n;
    }
    if (p->fd < 0)
        return;
    if (p->out_sent == p->out_used)
        p->out_sent = p->out_used = 0;
    int wanted = p->out_used > 0 || p->flooding;
    if (wanted != p->waiting) {
        watch(p, p->fd, EPOLL_CTL_MOD, EPOLLIN | (wanted ? EPOLLOUT : 0u));
        p->waiting = wanted;
    }
}

static void queue(struct peer *p, const char *data, size_t size)
{
    if (size > OUT_LIMIT - p->out_used) { /* more pipelined answers than the load ever asks for */
        end(p);
        return;
    }
    memcpy(p->out + p->out_used, data, size);
    p->out_used += size;
}

static void queue_event(struct peer *p, const char *json)
{
    char frame[RESULT_SIZE + 512];
    size_t data = strlen(json) + 8; /* "data: " and two line feeds */
    int n = snprintf(frame, sizeof frame, "%zx\r\ndata: %s\n\n\r\n", data, json);
    queue(p, frame, (size_t)n);
}

static void answer(struct peer *p, const char *status, const char *headers, const char *body)
{
    char text[RESULT_SIZE + 1024];
    int n = snprintf(text, sizeof text, "HTTP/1.1 %s\r\n%sContent-Length: %zu\r\n\r\n%s", status, headers, strlen(body), body);
    queue(p, text, (size_t)n);
}

static void answer_json(struct peer *p, const char *result, const char *headers)
{
    char body[RESULT_SIZE + 256], all[256];
    snprintf(body, sizeof body, "{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{%s%s}}", p->id, result,
             p->modern ? ",\"resultType\":\"complete\"" : "");
    snprintf(all, sizeof all, "Content-Type: application/json\r\n%s", headers);
    answer(p, "200 OK", all, body);
}

/* The constant tool result, padded so that the whole body is RESULT_SIZE bytes with a one-digit id. */
static void answer_weather(struct peer *p)
{
    static char result[RESULT_SIZE];
    if (!result[0]) {
        const char *sentence = "Springfield: 21 degrees, light wind from the west, no rain expected. ";
        size_t body = RESULT_SIZE - strlen("{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{,\"resultType\":\"complete\"}}");
        const char *tail = "\"}],\"isError\":false";
        size_t used = (size_t)sprintf(result, "\"content\":[{\"type\":\"text\",\"text\":\"");
        for (size_t i = 0; used < body - strlen(tail); i++)
            result[used++] = sentence[i % strlen(sentence)];
        strcpy(result + used, tail);
    }
    answer_json(p, result, "");
}

/* Copies the raw JSON value after `"key":` (a string with its quotes, or a number); 0 where there is none. */
static int value(const char *body, const char *key, char *out, size_t room)
{
    const char *v = strstr(body, key);
    size_t n = 0;
    if (!v)
        return 0;
    v += strlen(key);
    if (*v == '"') {
        for (n = 1; v[n] && v[n] != '"'; n++)
            if (v[n] == '\\' && v[n + 1])
                n++;
        n++;
    } else {
        n = strcspn(v, ",}] ");
    }
    if (n >= room)
        return 0;
    memcpy(out, v, n);
    out[n] = 0;
    return 1;
}

static double number(const char *body, const char *key)
{
    char text[40];
    return value(body, key, text, sizeof text) ? atof(text) : 0;
}

/* The stamp is hexadecimal: 13 decimal digits are looked at as a card number, which progress hardly ever holds. */
static void one_event(struct peer *p)
{
    char json[320];
    snprintf(json, sizeof json,
             "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":%s,"
             "\"progress\":%llu,\"message\":\"sent=0x%llx\"}}",
             p->token, (unsigned long long)++p->number, (unsigned long long)now_ns());
    queue_event(p, json);
}

static void last_event(struct peer *p)
{
    char json[256];
    snprintf(json, sizeof json, "{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"content\":[]%s}}", p->id,
             p->modern ? ",\"resultType\":\"complete\"" : "");
    queue_event(p, json);
    queue(p, "0\r\n\r\n", 5);
    p->streaming = p->flooding = 0;
    if (p->timer >= 0)
        close(p->timer);
    p->timer = -1;
}

/* Events that are due (or a batch, in a flood), then the result. */
static void advance(struct peer *p)
{
    uint64_t due = p->total;
    if (p->flooding && p->number + BATCH < due)
        due = p->number + BATCH;
    if (p->rate > 0) {
        uint64_t by_time = 1 + (uint64_t)((double)(now_ns() - p->start) / 1e9 * p->rate);
        due = by_time < due ? by_time : due;
    }
    while (p->number < due && p->out_used < OUT_LIMIT / 2)
        one_event(p);
    if (p->number == p->total)
        last_event(p);
    flush(p);
}

static void start_stream(struct peer *p, const char *body)
{
    const char *head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                       "Transfer-Encoding: chunked\r\n\r\n";
    queue(p, head, strlen(head));
    p->streaming = 1;
    p->number = 0;
    p->silent = 1;
    if (!body || !value(body, "\"progressToken\":", p->token, sizeof p->token)) {
        queue(p, "8\r\n: open\n\n\r\n", 13);
        return;
    }
    p->total = (uint64_t)number(body, "\"events\":");
    p->rate = number(body, "\"perSecond\":");
    p->silent = !p->total;
    p->flooding = !p->silent && p->rate <= 0;
    p->start = now_ns();
    if (p->silent) {
        one_event(p);
    } else if (p->rate > 0) {
        long step = (long)(1e9 / p->rate);
        struct itimerspec t = {.it_value = {step / 1000000000, step % 1000000000}};
        t.it_interval = t.it_value;
        p->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        if (p->timer < 0 || timerfd_settime(p->timer, 0, &t, NULL))
            die("timerfd");
        watch(p, p->timer, EPOLL_CTL_ADD, EPOLLIN);
        advance(p);
    }
}

static void answer_initialize(struct peer *p)
{
    char session[64];
    snprintf(session, sizeof session, "Mcp-Session-Id: %016llx%016llx\r\n", (unsigned long long)++sessions, (unsigned long long)now_ns());
    answer_json(p, "\"protocolVersion\":\"2025-11-25\",\"capabilities\":{\"tools\":{}},"
                   "\"serverInfo\":{\"name\":\"stub\",\"version\":\"1\"}", session);
}

static const char TOOLS[] =
    "\"tools\":[{\"name\":\"get_weather\",\"inputSchema\":{\"type\":\"object\"}},"
    "{\"name\":\"watch\",\"inputSchema\":{\"type\":\"object\"}}]";

static void answer_call(struct peer *p, const char *body)
{
    char tool[80] = "";
    value(body, "\"name\":", tool, sizeof tool);
    if (!strcmp(tool, "\"watch\""))
        start_stream(p, body);
    else
        answer_weather(p);
}

static void unknown_method(struct peer *p)
{
    char text[256];
    snprintf(text, sizeof text, "{\"jsonrpc\":\"2.0\",\"id\":%s,\"error\":{\"code\":-32601,\"message\":\"no such method\"}}", p->id);
    answer(p, p->modern ? "404 Not Found" : "200 OK", "Content-Type: application/json\r\n", text);
}

static void message(struct peer *p, const char *body)
{
    char method[80] = "", fresh[512];
    p->modern = strstr(body, "io.modelcontextprotocol/protocolVersion") != NULL;
    const char *hints = p->modern ? ",\"ttlMs\":0,\"cacheScope\":\"private\"" : "";
    value(body, "\"method\":", method, sizeof method);
    if (!value(body, "\"id\":", p->id, sizeof p->id)) {
        answer(p, "202 Accepted", "", "");
    } else if (!strcmp(method, "\"tools/call\"")) {
        answer_call(p, body);
    } else if (!strcmp(method, "\"initialize\"")) {
        answer_initialize(p);
    } else if (!strcmp(method, "\"ping\"")) {
        answer_json(p, p->modern ? "\"_meta\":{}" : "", "");
    } else if (!strcmp(method, "\"tools/list\"")) {
        snprintf(fresh, sizeof fresh, "%s%s", TOOLS, hints);
        answer_json(p, fresh, "");
    } else if (!strcmp(method, "\"server/discover\"")) {
        answer_json(p, "\"supportedVersions\":[\"2026-07-28\",\"2025-11-25\"],\"capabilities\":{\"tools\":{}},"
                       "\"serverInfo\":{\"name\":\"stub\",\"version\":\"1\"},\"ttlMs\":0,\"cacheScope\":\"private\"", "");
    } else {
        unknown_method(p);
    }
}

/* Takes one complete request from the buffer; 0 when there is none yet. */
static int take(struct peer *p)
{
    char *head_end = memmem(p->in, p->used, "\r\n\r\n", 4);
    if (!head_end)
        return 0;
    head_end[2] = 0; /* so that header() stops here */
    const char *length = header(p->in, "content-length:");
    size_t size = length ? strtoull(length, NULL, 10) : 0;
    size_t all = (size_t)(head_end - p->in) + 4 + size;
    if (header(p->in, "transfer-encoding:") || all > IN_LIMIT) {
        end(p);
        return 0;
    }
    head_end[2] = '\r';
    if (all > p->used)
        return 0;
    char after = p->in[all];
    p->in[all] = 0;
    if (!strncmp(p->in, "POST ", 5))
        message(p, head_end + 4);
    else if (!strncmp(p->in, "GET ", 4))
        start_stream(p, NULL);
    else
        answer(p, "200 OK", "", "");
    p->in[all] = after;
    memmove(p->in, p->in + all, p->used - all);
    p->used -= all;
    return 1;
}

static void receive(struct peer *p)
{
    ssize_t n = read(p->fd, p->in + p->used, IN_LIMIT - p->used);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) { /* gone, or a request larger than anything the load sends */
        end(p);
        return;
    }
    p->used += (size_t)n;
    while (p->fd >= 0 && !p->streaming && take(p))
        ;
    if (p->fd >= 0)
        flush(p);
}

static void welcome(int listener)
{
    int one = 1, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct peer *p = must_alloc(1, sizeof *p);
        p->fd = fd;
        p->timer = -1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        watch(p, fd, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static void happened(uint64_t data, uint32_t events)
{
    struct peer *p = (struct peer *)(uintptr_t)(data & ~(uint64_t)1);
    uint64_t expirations;
    if (p->fd < 0)
        return;
    if (data & 1) {
        if (p->timer >= 0 && read(p->timer, &expirations, sizeof expirations) > 0)
            advance(p);
        return;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(p);
    if (p->fd >= 0 && events & EPOLLOUT) {
        flush(p);
        if (p->fd >= 0 && p->flooding)
            advance(p);
    }
}

static int listen_on(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    socklen_t size = sizeof a;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096) || getsockname(fd, (struct sockaddr *)&a, &size))
        die("listen");
    printf("ready %d\n", ntohs(a.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv)
{
    struct epoll_event ready[512], e = {.events = EPOLLIN, .data.u64 = 0};
    int port = 0, spin = 0, option, listener;
    while ((option = getopt(argc, argv, "p:s")) != -1) {
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 's': spin = 1; break;
        default: return 2;
        }
    }
    if ((loop = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("epoll_create1");
    listener = listen_on(port);
    if (epoll_ctl(loop, EPOLL_CTL_ADD, listener, &e))
        die("epoll_ctl");
    for (;;) {
        int n = wait_ready(loop, ready, 512, -1, spin);
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < n; i++) {
            if (ready[i].data.u64)
                happened(ready[i].data.u64, ready[i].events);
            else
                welcome(listener);
        }
        while (dead) {
            struct peer *p = dead;
            dead = p->next_dead;
            free(p);
        }
    }
}
