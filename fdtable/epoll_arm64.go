package fdtable

// epollEventGap is the padding between events and data of struct epoll_event, which is not packed
// (include/uapi/linux/eventpoll.h).
const epollEventGap = 4
