/* HTTP requests, at a fixed rate (an open loop) or as fast as they are answered (a closed one); one thread, one epoll.
 *
 * requests PORT SECONDS RATE CLIENTS KEPT BLOCKING THINKING PATIENCE SEED
 *   RATE      requests a second, at the times of a Poisson process, whatever became of those before;
 *             0: a closed loop, CLIENTS at a time, each asking again when it has its answer
 *   CLIENTS   connections that are open from the beginning, for the requests that go over kept ones
 *   KEPT      share of the requests (0 to 1) that go over a kept connection: whichever has been idle longest; if none
 *             is, over a new one, which is kept from then on.  The others have a connection each
 *   BLOCKING  share of the requests that ask for /block, all others ask for /
 *   THINKING  seconds between a new connection and its request, as a network or a TLS handshake lies between them; a
 *             request is due, and counts as sent, when the connection is asked for
 *   PATIENCE  seconds after which a request that is not answered counts as hung, from when it was due
 *   SEED      which of the requests are which, and when they are due: requests.py makes the same of the same
 * Prints a line for each request: when it was due (us from the beginning), how late it was sent (us), when its answer
 * had come (us after it was due, so that waiting to be sent counts), kept, blocking, outcome (a letter, see below).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 256
#define MOST 65536      /* descriptors */
#define HEAD 2048       /* bytes of an answer, head and body */
#define OPENING 0.5     /* seconds in which the first connections are opened, before the beginning */
#define LOOK 0.1        /* seconds between two looks for the hung */
#define FAR 1e9         /* seconds, never */
#define TURN 64         /* requests sent before answers are read again, if the generator is late */

enum { ANSWERED = 'a', REFUSED = 'r', RESET = 'x', CUT = 'c', HUNG = 'h', WRONG = 'w', UNSENT = 'u' };

struct request {
    double due, sent, done; /* seconds from the beginning; before it: of the opening, and told to nobody */
    char kept, blocking, outcome;
};

struct connection {
    long request; /* the one in progress, or -1 */
    int thinks, asked, got;
    unsigned generation; /* counts the connections that had this descriptor */
    char head[HEAD + 1];
};

struct idle {
    int fd;
    unsigned generation;
    double until;
};

static struct sockaddr_in address = {.sin_family = AF_INET};
static struct connection *connections;
static struct request *requests;
static struct idle *line; /* idle kept connections, the longest idle first; a ring */
static unsigned line_first, line_last;
static struct idle *thinkers; /* connections that are yet to ask, the first to do so first; a ring */
static unsigned thinkers_first, thinkers_last;
static long count, most;
static int ep, highest, open_requests;
static double beginning, patience, kept_share, blocking_share, thinking;
static uint64_t seed;
static int closed_loop;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9 - beginning;
}

static double chance(void) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return (double)(seed >> 11) / 9007199254740992.0;
}

static void leave(int fd) {
    connections[fd].generation++;
    connections[fd].request = -1;
    close(fd);
}

static void finish(int fd, char outcome, int keep) {
    struct request *r = &requests[connections[fd].request];
    r->outcome = outcome;
    r->done = now();
    open_requests--;
    if (outcome == ANSWERED && keep) {
        connections[fd].request = -1;
        line[line_last++ % MOST] = (struct idle){fd, connections[fd].generation, 0};
    } else {
        leave(fd);
    }
}

static char why(int error) {
    return error == ECONNREFUSED ? REFUSED : error == ECONNRESET || error == EPIPE ? RESET : UNSENT;
}

/* Whether it is asked, or has ended. */
static void ask(int fd) {
    struct connection *c = &connections[fd];
    struct request *r = &requests[c->request];
    char text[128];
    int length = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", r->blocking ? "/block" : "/",
                          r->kept ? "" : "Connection: close\r\n");
    ssize_t sent = send(fd, text, (size_t)length, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == ENOTCONN)) return;
    if (sent != length) {
        finish(fd, why(errno), 0);
        return;
    }
    c->asked = 1;
}

static int connect_new(void) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.fd = fd};
    if (fd < 0 || fd >= MOST) {
        if (fd >= 0) close(fd);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    if (fd > highest) highest = fd;
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event);
    return fd;
}

static int longest_idle(void) {
    while (line_first != line_last) {
        struct idle i = line[line_first++ % MOST];
        if (connections[i.fd].generation == i.generation) return i.fd;
    }
    return -1;
}

static void begin(double due, int kept, int fresh) {
    struct request *r;
    struct connection *c;
    int fd, wait;
    if (count == most) {
        most *= 2;
        requests = realloc(requests, sizeof *requests * (size_t)most);
        if (requests == NULL) exit(3);
    }
    r = &requests[count];
    *r = (struct request){.due = due, .kept = (char)kept, .blocking = !fresh && chance() < blocking_share};
    fd = kept && !fresh ? longest_idle() : -1;
    wait = fd < 0 && thinking > 0;
    if (fd < 0) fd = connect_new();
    r->sent = now();
    if (closed_loop) r->due = r->sent;
    count++;
    if (fd < 0) {
        r->outcome = errno == ECONNREFUSED ? REFUSED : UNSENT;
        r->done = r->sent;
        return;
    }
    open_requests++;
    c = &connections[fd];
    c->request = count - 1;
    c->asked = c->got = 0;
    c->thinks = wait;
    if (wait)
        thinkers[thinkers_last++ % MOST] = (struct idle){fd, c->generation, r->sent + thinking};
    else
        ask(fd);
}

/* Those ask who have thought; returns when the next has. */
static double ask_after_thought(void) {
    while (thinkers_first != thinkers_last) {
        struct idle *i = &thinkers[thinkers_first % MOST];
        if (i->until > now()) return i->until;
        thinkers_first++;
        if (connections[i->fd].generation != i->generation) continue;
        connections[i->fd].thinks = 0;
        ask(i->fd);
    }
    return FAR;
}

/* 1: the answer is whole; 0: more is to come; -1: it is none. */
static int whole(const struct connection *c, int *keep) {
    const char *end = memmem(c->head, (size_t)c->got, "\r\n\r\n", 4), *field;
    if (end == NULL) return c->got == HEAD ? -1 : 0;
    if (c->got < 12 || memcmp(c->head, "HTTP/1.1 200", 12) != 0) return -1;
    field = strcasestr(c->head, "\r\ncontent-length:");
    if (field == NULL || field > end) return -1;
    *keep = 1;
    if ((long)(c->got - (end + 4 - c->head)) < atol(field + 17)) return c->got == HEAD ? -1 : 0;
    field = strcasestr(c->head, "\r\nconnection: close");
    if (field != NULL && field <= end) *keep = 0;
    return 1;
}

static void hear(int fd) {
    struct connection *c = &connections[fd];
    for (;;) {
        ssize_t got;
        int state, keep = 0;
        if (c->request < 0) { /* idle: whatever comes is its end */
            char byte;
            got = recv(fd, &byte, 1, 0);
            if (got < 0 && errno == EAGAIN) return;
            leave(fd);
            return;
        }
        got = recv(fd, c->head + c->got, (size_t)(HEAD - c->got), 0);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) {
            finish(fd, got == 0 ? CUT : why(errno), 0);
            return;
        }
        c->got += (int)got;
        c->head[c->got] = 0;
        state = whole(c, &keep);
        if (state != 0) {
            int kept = requests[c->request].kept;
            finish(fd, state > 0 ? ANSWERED : WRONG, keep && kept);
            if (state < 0 || !(keep && kept)) return;
        }
    }
}

static void look_for_the_hung(double time) {
    for (int fd = 0; fd <= highest; fd++) {
        long number = connections[fd].request;
        if (number >= 0 && time - requests[number].due > patience) finish(fd, HUNG, 0);
    }
}

static void listen_until(double time) {
    struct epoll_event events[EVENTS];
    struct pollfd waiting = {.fd = ep, .events = POLLIN};
    double left = time - now();
    struct timespec timeout = {0, 0};
    int n;
    if (left > 0) {
        timeout.tv_sec = (time_t)left;
        timeout.tv_nsec = (long)((left - (double)timeout.tv_sec) * 1e9);
    }
    if (ppoll(&waiting, 1, &timeout, NULL) <= 0) return;
    n = epoll_wait(ep, events, EVENTS, 0);
    for (int i = 0; i < n; i++) {
        int fd = events[i].data.fd;
        struct connection *c = &connections[fd];
        if (c->request >= 0 && !c->asked && !c->thinks) {
            if (!(events[i].events & EPOLLOUT)) continue;
            ask(fd);
            if (c->request < 0) continue;
        }
        if (events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP)) hear(fd);
    }
}

static double least(double a, double b) { return a < b ? a : b; }

/* Independent clients: the times between two requests are exponential (a Poisson process), and known beforehand. */
static void open_loop(double seconds, double rate, int clients) {
    double looked = 0, next = 0, due;
    int opened = 0;
    while (next < seconds || open_requests > 0) {
        double time = now();
        int turn = 0;
        for (;;) {
            due = opened < clients ? OPENING * opened / clients - OPENING : next < seconds ? next : FAR;
            if (due > time || turn++ == TURN) break;
            if (opened < clients) {
                begin(due, 1, 1);
                opened++;
            } else {
                begin(due, chance() < kept_share, 0);
                next += -log(1 - chance()) / rate;
            }
        }
        listen_until(least(ask_after_thought(), least(due, looked + LOOK)));
        time = now();
        if (time - looked > LOOK) {
            look_for_the_hung(time);
            looked = time;
        }
    }
}

static void as_fast_as_can_be(double seconds, int clients) {
    double looked = 0;
    for (;;) {
        double time = now();
        while (time < seconds && open_requests < clients) {
            long before = count;
            begin(time, kept_share > 0, 0);
            if (requests[before].outcome) break; /* it could not begin: no use to try faster */
        }
        if (time >= seconds && open_requests == 0) return;
        listen_until(least(ask_after_thought(), looked + LOOK));
        if (time - looked > LOOK) {
            look_for_the_hung(time);
            looked = time;
        }
    }
}

int main(int argc, char **argv) {
    struct rlimit files;
    double seconds, rate;
    int clients;
    if (argc != 10) return 2;
    address.sin_port = htons((unsigned short)atoi(argv[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    seconds = atof(argv[2]);
    rate = atof(argv[3]);
    clients = atoi(argv[4]);
    kept_share = atof(argv[5]);
    blocking_share = atof(argv[6]);
    thinking = atof(argv[7]);
    patience = atof(argv[8]);
    seed = (uint64_t)atol(argv[9]) * 2654435761u + 88172645463325252u;
    closed_loop = rate <= 0;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0);
    most = 65536;
    requests = malloc(sizeof *requests * (size_t)most);
    connections = calloc(MOST, sizeof *connections);
    line = calloc(MOST, sizeof *line);
    thinkers = calloc(MOST, sizeof *thinkers);
    ep = epoll_create1(EPOLL_CLOEXEC);
    if (requests == NULL || connections == NULL || line == NULL || thinkers == NULL || ep < 0) return 3;
    for (int i = 0; i < MOST; i++) connections[i].request = -1;
    beginning = now() + (closed_loop || clients == 0 ? 0 : OPENING);
    if (closed_loop)
        as_fast_as_can_be(seconds, clients);
    else
        open_loop(seconds, rate, clients);
    for (long i = 0; i < count; i++) {
        const struct request *r = &requests[i];
        if (r->due >= 0)
            printf("%.0f %.0f %.0f %d %d %c\n", r->due * 1e6, (r->sent - r->due) * 1e6, (r->done - r->due) * 1e6, r->kept,
                   r->blocking, r->outcome);
    }
    return 0;
}
