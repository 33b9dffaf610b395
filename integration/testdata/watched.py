"""Changes its state in ways that a watch tells of: READY, then on the file "go" all of them, then it ends with status 7."""
import ctypes
import mmap
import os
import resource
import signal
import time

os.symlink("/etc/passwd", "link")
print("READY", flush=True)
while not os.path.exists("go"):
    time.sleep(0.005)
mmap.mmap(-1, 12345).close()
library = ctypes.CDLL("libm.so.6")
fd = os.open("./link", os.O_RDONLY)
os.dup2(fd, 77)
signal.signal(signal.SIGUSR1, lambda *_: None)
resource.setrlimit(resource.RLIMIT_CORE, (4321, resource.RLIM_INFINITY))
child = os.fork()
if child == 0:
    os.open("/dev/zero", os.O_RDWR)
    os._exit(3)
os.waitpid(child, 0)
if os.path.exists("signal"):
    os.kill(os.getpid(), signal.SIGTERM)
os._exit(7)
