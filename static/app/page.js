// On every page: times in the reader's zone, and menus that close. Everything works without it.
"use strict";

(() => {
  const full = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
  // For evidence: to the second, with the name of the zone.
  const exact = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short" });
  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
  const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });

  function ago(moment) {
    const seconds = Math.round((moment - Date.now()) / 1000);
    if (Math.abs(seconds) < 60) return relative.format(seconds, "second");
    if (Math.abs(seconds) < 3600) return relative.format(Math.round(seconds / 60), "minute");
    if (Math.abs(seconds) < 86400) return relative.format(Math.round(seconds / 3600), "hour");
    return full.format(moment);
  }

  const styles = { full: (moment) => full.format(moment), exact: (moment) => exact.format(moment), time: (moment) => clock.format(moment), ago };

  function localTimes(root) {
    for (const element of root.querySelectorAll("time[datetime]")) {
      const moment = new Date(element.dateTime);
      if (Number.isNaN(moment.getTime())) continue;
      element.textContent = (styles[element.dataset.style] || styles.full)(moment);
    }
  }

  function closeMenus(event) {
    for (const menu of document.querySelectorAll("details[data-menu][open]")) {
      if (event.type === "keydown" ? event.key === "Escape" : !menu.contains(event.target)) {
        menu.open = false;
        if (event.type === "keydown") menu.querySelector("summary").focus();
      }
    }
  }

  localTimes(document);
  document.addEventListener("htmx:afterSwap", (event) => localTimes(event.target));
  document.addEventListener("click", closeMenus);
  document.addEventListener("keydown", closeMenus);
  for (const form of document.querySelectorAll("form[data-autosubmit]")) {
    form.addEventListener("change", () => form.requestSubmit());
  }
})();
