/* A worker of rrmaster in C, as docs/protocol.md has it, that serves what peer.c's workers serve, in the same way.
 *
 * So that two masters can be compared and nothing else, and so that 256 workers can be had on a small machine.  It owes
 * its master nothing but retiring: it takes one connection at a time, reports 2 ms after a change and each half second,
 * and answers probes and nudges.  Its line is the descriptor in RRMASTER_LINE.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 64
#define HEAD 4096
#define MOST 65536
#define SOON 0.002     /* seconds from a change to the report of it */
#define HEARTBEAT 0.5  /* seconds between two reports, at most */

enum { READY = 1, REPORT = 2, HANDOFF = 16, NUDGE = 17 };

static const char ANSWER[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n"
                             "Connection: close\r\n\r\nHello, world.\n";

struct __attribute__((packed)) report {
    uint8_t kind, spare;
    uint16_t length;
    uint64_t closed;
    uint32_t busy;
    uint8_t taking, spare_too;
    uint16_t asides;
    uint32_t lag;
    uint64_t rss, cpu, requests;
};

static char *heads[MOST];
static unsigned short lengths[MOST];
static char probe[MOST];
static uint64_t taken, closed;
static uint16_t asides;
static int ep, line, ended;
static double due;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void changed(double by) {
    if (due > by) due = by;
}

static void say_ready(void) {
    char message[128];
    int length = snprintf(message + 4, sizeof message - 4, "{\"protocol\": 1, \"pid\": %d, \"listeners\": null}", getpid());
    message[0] = READY, message[1] = 0, message[2] = (char)length, message[3] = 0;
    if (send(line, message, (size_t)length + 4, 0) < 0) exit(1);
}

static void report(void) {
    struct report r = {.kind = REPORT, .length = sizeof r - 4, .closed = closed, .busy = (uint32_t)(taken - closed),
                       .taking = 1, .asides = asides, .requests = closed};
    due = now() + (send(line, &r, sizeof r, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == EAGAIN ? SOON : HEARTBEAT);
}

static void end(int fd) {
    close(fd);
    if (!probe[fd]) closed++;
    changed(now() + SOON);
}

/* Whether it is done with this connection. */
static int serve(int fd) {
    for (;;) {
        ssize_t got = read(fd, heads[fd] + lengths[fd], (size_t)(HEAD - lengths[fd]));
        if (got < 0 && errno == EAGAIN) return 0;
        if (got <= 0) return 1;
        lengths[fd] = (unsigned short)(lengths[fd] + got);
        if (memmem(heads[fd], lengths[fd], "\r\n\r\n", 4)) return write(fd, ANSWER, sizeof ANSWER - 1) != 0;
    }
}

static void begin(int fd, int is_probe) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (heads[fd] == NULL && (heads[fd] = malloc(HEAD)) == NULL) exit(1);
    fcntl(fd, F_SETFL, O_NONBLOCK); /* it comes as accept left it */
    lengths[fd] = 0;
    probe[fd] = (char)is_probe;
    if (serve(fd))
        end(fd);
    else
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event);
}

/* Whether there was something. */
static int take(void) {
    unsigned char message[64];
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec part = {.iov_base = message, .iov_len = sizeof message};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(line, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *rights = got > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    int fd, is_probe;
    if (got < 0) {
        if (errno != EAGAIN && errno != EINTR && errno != ECONNRESET) exit(1);
        return 0;
    }
    if (got == 0) { /* there will be no more */
        ended = 1;
        epoll_ctl(ep, EPOLL_CTL_DEL, line, NULL);
        return 0;
    }
    is_probe = message[0] == HANDOFF && (message[7] & 1);
    if (message[0] == NUDGE || is_probe) {
        asides++;
        changed(0);
    }
    if (message[0] == HANDOFF && rights != NULL) {
        memcpy(&fd, CMSG_DATA(rights), sizeof fd);
        if (fd >= MOST) exit(1);
        taken += !is_probe;
        begin(fd, is_probe);
    }
    return 1;
}

int main(void) {
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN};
    struct rlimit files;
    const char *number = getenv("RRMASTER_LINE");
    if (number == NULL) return 2;
    line = atoi(number);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    ep = epoll_create1(EPOLL_CLOEXEC);
    event.data.fd = line;
    epoll_ctl(ep, EPOLL_CTL_ADD, line, &event);
    say_ready();
    report();
    while (!ended || taken > closed) {
        double left = due - now();
        int count = epoll_wait(ep, events, EVENTS, left > 0 ? (int)(left * 1e3) + 1 : 0);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == line)
                while (take()) continue;
            else if (serve(fd))
                end(fd);
        }
        if (now() >= due) report();
    }
    report();
    return 0;
}
