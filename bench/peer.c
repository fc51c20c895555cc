/* The least that a master can do, in C: accept4, sendmsg with SCM_RIGHTS to the next of N workers, close.
 *
 * peer WORKERS PORT; prints the port, and ends when its stdin does.  No load is counted and nothing is ever taken back: it is
 * the floor to measure from, and no server.  A worker that is full is waited for (its line blocks).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 64
#define HEAD 4096

static const char ANSWER[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n"
                             "Connection: close\r\n\r\nHello, world.\n";

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void add(int ep, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
}

/* --- the master */

static int hand_over(int line, int fd) {
    char word[16] = {1};
    char control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec part = {.iov_base = word, .iov_len = sizeof word};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    return sendmsg(line, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

static void master(int listener, const int *lines, int workers) {
    struct epoll_event events[EVENTS];
    int ep = epoll_create1(EPOLL_CLOEXEC), next = 0;
    add(ep, listener);
    add(ep, STDIN_FILENO);
    for (;;) {
        int count = epoll_wait(ep, events, EVENTS, -1), fd;
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == STDIN_FILENO) exit(0);
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                if (hand_over(lines[next], fd) < 0) die("sendmsg");
                next = (next + 1) % workers;
                close(fd);
            }
        }
    }
}

/* --- a worker */

static char heads[65536][HEAD];
static unsigned short lengths[65536];

static int take(int line) {
    char word[16], control[CMSG_SPACE(sizeof(int))];
    struct iovec part = {.iov_base = word, .iov_len = sizeof word};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(line, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *rights = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    int fd;
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return -1;
    if (rights == NULL) exit(0); /* the master is gone */
    memcpy(&fd, CMSG_DATA(rights), sizeof fd);
    return fd;
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

static void worker(int line) {
    struct epoll_event events[EVENTS];
    int ep = epoll_create1(EPOLL_CLOEXEC);
    add(ep, line);
    for (;;) {
        int count = epoll_wait(ep, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd != line) {
                if (serve(fd)) close(fd);
                continue;
            }
            while ((fd = take(line)) >= 0) {
                lengths[fd] = 0;
                if (serve(fd))
                    close(fd);
                else
                    add(ep, fd);
            }
        }
    }
}

int main(int argc, char **argv) {
    int workers = argc > 1 ? atoi(argv[1]) : 4, port = argc > 2 ? atoi(argv[2]) : 0, one = 1, lines[256];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct rlimit files;
    if (workers < 1 || workers > 256) return 2;
    address.sin_port = htons((unsigned short)port);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 2048) < 0) die("listen");
    if (getsockname(listener, (struct sockaddr *)&address, &size) < 0) die("getsockname");
    for (int i = 0; i < workers; i++) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) die("socketpair");
        pid_t child = fork();
        if (child < 0) die("fork");
        if (child == 0) {
            close(listener);
            close(STDIN_FILENO);
            close(pair[0]);
            for (int j = 0; j < i; j++) close(lines[j]);
            worker(pair[1]);
        }
        close(pair[1]);
        lines[i] = pair[0];
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    master(listener, lines, workers);
}
