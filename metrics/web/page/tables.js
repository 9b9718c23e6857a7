"use strict";
// A table that is sorted and searched here: however many rows it is given, the document holds those that are shown.

const STEP = 100;

class Table {
  // about: { columns: [{ title, order, text, mood, fill, width, words, hint }], key, halted, by, down }
  constructor(about) {
    this.about = about;
    this.rows = []; this.kept = new Map(); this.limit = STEP; this.words = [];
    this.by = about.by ?? null; this.down = about.down ?? true;
    this.element = make("table");
    const head = make("tr"), top = make("thead");
    this.body = make("tbody");
    this.heads = about.columns.map((column, place) => {
      const cell = make("th", { scope: "col", class: [column.words ? "words" : "", column.name || ""].join(" ").trim() });
      if (column.width) cell.style.width = column.width + "px";
      if (column.order) {
        const button = make("button", { type: "button" }, column.title);
        if (column.hint) button.title = column.hint;
        button.addEventListener("click", () => this.sort(place));
        cell.append(button);
      } else cell.textContent = column.title;
      return cell;
    });
    head.append(...this.heads);
    top.append(head);
    this.element.append(top, this.body);
  }
  sort(place) {
    this.down = this.by === place ? !this.down : !this.about.columns[place].words;
    this.by = place;
    this.show();
  }
  search(text) {
    this.words = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.limit = STEP;
    this.show();
  }
  set(rows) { this.rows = rows; this.show(); }
  more() { this.limit += 4 * STEP; this.show(); }
  matches(row) {
    if (!this.words.length) return true;
    if (row.found === undefined) row.found = this.about.found(row).toLowerCase();
    return this.words.every((word) => row.found.includes(word));
  }
  sorted(rows) {
    if (this.by == null) return rows;
    const order = this.about.columns[this.by].order, sign = this.down ? -1 : 1;
    const keyed = rows.map((row) => [order(row) ?? -1, row]);
    const text = keyed.some(([value]) => typeof value === "string");
    keyed.sort(text
      ? ([a], [b]) => sign * ((a = String(a)) < (b = String(b)) ? -1 : a > b ? 1 : 0)
      : ([a], [b]) => sign * (a - b));
    return keyed.map(([, row]) => row);
  }
  show() {
    const found = this.rows.filter((row) => this.matches(row));
    const wanted = this.sorted(found).slice(0, this.limit).map((row) => this.filled(row));
    this.found = found.length;
    const now = this.body.children;
    if (wanted.length !== now.length || wanted.some((row, place) => now[place] !== row)) {
      const focused = document.activeElement;
      this.body.replaceChildren(...wanted);
      if (focused && focused !== document.activeElement && this.body.contains(focused)) focused.focus();
    }
    if (this.kept.size > 2 * wanted.length + STEP) {
      const shown = new Set(wanted);
      for (const [key, { element }] of this.kept) if (!shown.has(element)) this.kept.delete(key);
    }
    this.heads.forEach((cell, place) => {
      if (this.about.columns[place].order) cell.setAttribute("aria-sort", place !== this.by ? "none" : this.down ? "descending" : "ascending");
    });
    this.shown?.(this);
  }
  filled(row) {
    const key = this.about.key(row);
    let kept = this.kept.get(key);
    if (!kept) {
      const element = make("tr");
      const cells = this.about.columns.map(({ title, words, name }) => make("td", { "data-label": title, class: [words ? "words" : "", name || ""].join(" ").trim() }));
      element.append(...cells);
      this.kept.set(key, kept = { element, cells });
    }
    kept.row = row;
    this.about.columns.forEach(({ text, fill, mood, words, name }, place) => {
      const cell = kept.cells[place];
      if (fill) fill(cell, row, kept);
      else {
        const shown = text(row);
        say(cell, shown);
        if (words && cell.title !== shown) cell.title = shown;
      }
      if (mood) {
        const wanted = [words ? "words" : "", name || "", mood(row)].filter(Boolean).join(" ");
        if (cell.className !== wanted) cell.className = wanted;
      }
    });
    if (this.about.halted) kept.element.classList.toggle("halted", Boolean(this.about.halted(row)));
    return kept.element;
  }
}

// A cell whose words lead somewhere.
function link(cell, text, go, hint) {
  let button = cell.querySelector(".pick");
  if (!button) {
    cell.replaceChildren(button = make("button", { type: "button", class: "pick" }));
    button.addEventListener("click", () => button.go());
  }
  button.go = go;
  if (button.textContent !== text) button.replaceChildren(...text.split(/(?<=[_.-])/).flatMap((part, place) => place ? [make("wbr"), part] : [part]));
  if (hint && button.title !== hint) button.title = hint;
}
