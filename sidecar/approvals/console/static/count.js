// Keeps the number of pending requests up to date. The pages work without it.
"use strict";
(() => {
  const badge = document.getElementById("count");
  const list = document.querySelector("[data-pending]");
  const more = document.getElementById("more");
  const title = document.title;
  const show = (pending) => {
    badge.textContent = pending < 100 ? pending : "99+";
    badge.hidden = pending === 0;
    document.title = pending ? `(${badge.textContent}) ${title}` : title;
    if (list && more && pending !== Number(list.dataset.pending)) more.hidden = false;
  };
  const ask = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch("/count", { credentials: "same-origin" });
      if (answer.ok) show((await answer.json()).pending);
    } catch {
      // the console is away: the number stays as it was
    }
  };
  ask();
  setInterval(ask, 10000);
  document.addEventListener("visibilitychange", ask);
})();
