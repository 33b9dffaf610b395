package fdtable

// epollEventGap is the padding between events and data of struct epoll_event, which is packed on x86-64 only
// (include/uapi/linux/eventpoll.h).
const epollEventGap = 0
