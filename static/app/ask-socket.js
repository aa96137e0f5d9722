// The connection to /ws/ask: opens at once, comes back with growing pauses, and says what it is doing.
"use strict";

window.fdrouter = window.fdrouter || {};

(() => {
  const SIGNED_OUT = 4401;
  const FIRST_PAUSE = 500;
  const LONGEST_PAUSE = 8000;

  // `on` holds the functions open(), message(object), down(), signedOut().
  class AskSocket {
    constructor(path, on) {
      const scheme = location.protocol === "https:" ? "wss:" : "ws:";
      this.address = `${scheme}//${location.host}${path}`;
      this.on = on;
      this.pause = FIRST_PAUSE;
      this.ended = false;
      this.connect();
      window.addEventListener("online", () => this.now());
    }

    get isOpen() {
      return this.socket.readyState === WebSocket.OPEN;
    }

    connect() {
      this.socket = new WebSocket(this.address);
      this.socket.addEventListener("open", () => {
        this.pause = FIRST_PAUSE;
        this.on.open();
      });
      this.socket.addEventListener("message", (event) => this.on.message(JSON.parse(event.data)));
      this.socket.addEventListener("close", (event) => this.closed(event.code));
    }

    closed(code) {
      if (code === SIGNED_OUT) {
        this.ended = true;
        this.on.signedOut();
        return;
      }
      this.on.down();
      this.timer = setTimeout(() => this.connect(), this.pause);
      this.pause = Math.min(this.pause * 2, LONGEST_PAUSE);
    }

    // Tries at once instead of waiting for the pause to end.
    now() {
      if (this.ended || this.socket.readyState < WebSocket.CLOSING) return;
      clearTimeout(this.timer);
      this.connect();
    }

    send(message) {
      if (!this.isOpen) return false;
      this.socket.send(JSON.stringify(message));
      return true;
    }
  }

  window.fdrouter.AskSocket = AskSocket;
})();
