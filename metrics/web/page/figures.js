"use strict";
// Elements, and figures as people read them.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes = {}, text) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}
function draw(tag, attributes = {}) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
// Written only when it changed: a live region is not read out every second, and a selection stays.
function say(element, text) { if (element.textContent !== text) element.textContent = text; }
function press(button, pressed) { button.setAttribute("aria-pressed", String(pressed)); }

const none = "\u2013";
function plain(value) {
  if (value == null) return none;
  if (value >= 1e6) return (value / 1e6).toFixed(value < 1e7 ? 2 : 1) + " M";
  if (value >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return value.toFixed(value < 10 ? 1 : 0);
}
function time(us) {
  if (us == null) return none;
  if (us === 0) return "0";
  if (us < 1000) return Math.round(us) + " \u00b5s";
  if (us < 1e6) return (us / 1e3).toFixed(us < 1e4 ? 2 : us < 1e5 ? 1 : 0) + " ms";
  if (us < 1e8) return (us / 1e6).toFixed(us < 1e7 ? 2 : 1) + " s";
  return span(us / 1e6);
}
function bytes(value) {
  if (value == null) return none;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 1000 || unit === "GB") return (value < 10 && unit !== "B" ? value.toFixed(1) : Math.round(value)) + " " + unit;
    value /= 1000;
  }
}
function span(seconds) {
  const days = Math.floor(seconds / 86400), hours = Math.floor(seconds / 3600) % 24, minutes = Math.floor(seconds / 60) % 60;
  const rest = Math.floor(seconds) % 60;
  return days ? `${days} d ${hours} h` : hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min ${rest} s` : `${Math.max(0, rest)} s`;
}
function clock(t, seconds = true) {
  return new Date(t * 1000).toLocaleTimeString("en-GB", seconds ? {} : { hour: "2-digit", minute: "2-digit" });
}
function counted(number, one, many = one + "s") { return `${plain(number)} ${number === 1 ? one : many}`; }
function moment(t) {
  const then = new Date(t * 1000), today = new Date().toDateString() === then.toDateString();
  return today ? clock(t) : `${then.toLocaleDateString("sv-SE")} ${clock(t)}`;
}
