// What costs the server something is asked for once it is looked at.

const seen = new Set();

export function isSeen(section) {
  return seen.has(section);
}

// Call `run` whenever a section comes into view.
export function onSeen(section, run) {
  const watcher = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return seen.delete(section);
    seen.add(section);
    run();
  }, { rootMargin: "100px" });
  watcher.observe(section);
}
