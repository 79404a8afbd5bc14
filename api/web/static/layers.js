// Overlays as entries of the browser's history: Back closes the one on top instead of the page.
export class Layers {
  // Overlays that are open, the last one on top.
  #open = [];
  // How often `history.back` was called whose event has yet to come, and what was opened meanwhile.
  #leaving = 0;
  #late = [];

  // `reopen` is told the state of an entry that Forward came to.
  constructor(reopen) {
    addEventListener("popstate", (event) => {
      if (this.#leaving) {
        this.#leaving -= 1;
        if (!this.#leaving) for (const state of this.#late.splice(0)) history.pushState(state, "");
      } else if (this.#open.length) this.#open.pop().close();
      else if (event.state) reopen(event.state);
    });
  }

  // Adds an entry for an overlay that opens, unless the present one is its own, after a reload.
  // Returns the function to call when it was closed by anything; `close` is called by Back.
  enter(close, state) {
    const layer = { close };
    this.#open.push(layer);
    if (this.#leaving) this.#late.push(state);
    else if (JSON.stringify(history.state) !== JSON.stringify(state)) history.pushState(state, "");
    return () => {
      const at = this.#open.indexOf(layer);
      if (at < 0) return;
      this.#open.splice(at, 1);
      this.#leaving += 1;
      history.back();
    };
  }
}
