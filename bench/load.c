/* Clients: C at a time, each connects, asks, reads to the end, and begins again; one thread, one epoll.
 *
 * load PORT SECONDS CONCURRENCY LENGTH COUNT; LENGTH is that of the one right answer, and the end is after so many
 * SECONDS or COUNT connections.  Prints one line of JSON: connections done and failed, seconds, and the latency from
 * connect to end of stream, in microseconds.  A connection that takes longer than PATIENCE after the end has failed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 3.0
#define EVENTS 256
#define MOST 4096
#define SAMPLES 4000000

static const char REQUEST[] = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

struct client {
    int fd, asked;
    long length;
    double since;
};

static struct sockaddr_in address = {.sin_family = AF_INET};
static struct client clients[MOST];
static float *samples;
static long done, failed, begun, right;
static int ep;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void watch(struct client *c, int operation, unsigned events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(ep, operation, c->fd, &event);
}

/* Whether it could begin. */
static int begin(struct client *c) {
    begun++;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    c->length = 0;
    c->since = now();
    if (c->fd < 0 || (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)) {
        if (c->fd >= 0) close(c->fd);
        c->fd = -1;
        failed++;
        return 0;
    }
    /* Over loopback the connection mostly stands already. */
    c->asked = send(c->fd, REQUEST, sizeof REQUEST - 1, MSG_NOSIGNAL) == sizeof REQUEST - 1;
    watch(c, EPOLL_CTL_ADD, c->asked ? EPOLLIN : EPOLLOUT);
    return 1;
}

static void end(struct client *c, int ok) {
    close(c->fd);
    c->fd = -1;
    if (!ok) {
        failed++;
        return;
    }
    if (done < SAMPLES) samples[done] = (float)((now() - c->since) * 1e6);
    done++;
}

/* Whether this connection is over. */
static int move(struct client *c) {
    char data[4096];
    if (!c->asked) {
        if (send(c->fd, REQUEST, sizeof REQUEST - 1, MSG_NOSIGNAL) != sizeof REQUEST - 1) {
            if (errno == EAGAIN) return 0;
            end(c, 0);
            return 1;
        }
        c->asked = 1;
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
        return 0;
    }
    for (;;) {
        ssize_t got = recv(c->fd, data, sizeof data, 0);
        if (got < 0 && errno == EAGAIN) return 0;
        if (got <= 0) {
            end(c, got == 0 && c->length == right);
            return 1;
        }
        c->length += got;
    }
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double quantile(double q) {
    long count = done < SAMPLES ? done : SAMPLES;
    return count ? (double)samples[(long)((double)(count - 1) * q)] : 0.0;
}

int main(int argc, char **argv) {
    struct epoll_event events[EVENTS];
    int concurrency, open = 0;
    long most;
    double start, last, seconds, elapsed;
    if (argc != 6) return 2;
    address.sin_port = htons((unsigned short)atoi(argv[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    seconds = atof(argv[2]);
    concurrency = atoi(argv[3]);
    right = atol(argv[4]);
    most = atol(argv[5]);
    if (concurrency < 1 || concurrency > MOST) return 2;
    samples = malloc(sizeof *samples * SAMPLES);
    ep = epoll_create1(EPOLL_CLOEXEC);
    start = last = now();
    for (int i = 0; i < concurrency; i++) open += begin(&clients[i]);
    while (open > 0 && now() - start < seconds + PATIENCE) {
        int count = epoll_wait(ep, events, EVENTS, 100);
        for (int i = 0; i < count; i++) {
            struct client *c = events[i].data.ptr;
            if (!move(c)) continue;
            last = now();
            if (last - start >= seconds || begun >= most || !begin(c)) open--;
        }
    }
    failed += open;
    elapsed = last - start;
    qsort(samples, (size_t)(done < SAMPLES ? done : SAMPLES), sizeof *samples, compare);
    printf("{\"done\": %ld, \"failed\": %ld, \"seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n", done, failed,
           elapsed, quantile(0.5), quantile(0.99));
    return 0;
}
